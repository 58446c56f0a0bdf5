package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReadSaysWhatBecameOfEachTest(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		events string
		want   result
	}{
		"passed": {
			`{"Action":"run","Package":"m/p","Test":"TestA"}
			{"Action":"output","Package":"m/p","Test":"TestA","Output":"=== RUN   TestA\n"}
			{"Action":"pass","Package":"m/p","Test":"TestA","Elapsed":0.1}
			{"Action":"pass","Package":"m/p"}`,
			result{passed: 1},
		},
		"no tests": {
			`{"Action":"output","Package":"m/p","Output":"?   \tm/p\t[no test files]\n"}
			{"Action":"skip","Package":"m/p"}`,
			result{},
		},
		"skipped": {
			`{"Action":"output","Package":"m/p","Test":"TestA","Output":"=== RUN   TestA\n"}
			{"Action":"output","Package":"m/p","Test":"TestA","Output":"    a_test.go:177: SKIPPED: it takes npm\n"}
			{"Action":"output","Package":"m/p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
			{"Action":"skip","Package":"m/p","Test":"TestA"}
			{"Action":"skip","Package":"m/p","Test":"TestB"}
			{"Action":"pass","Package":"m/p"}`,
			result{skipped: []test{{"m/p.TestA", "it takes npm"}, {"m/p.TestB", "without a reason"}}},
		},
		"failed": {
			`{"Action":"output","Package":"m/p","Test":"TestA","Output":"    a_test.go:1: no\n"}
			{"Action":"fail","Package":"m/p","Test":"TestA"}
			{"Action":"output","Package":"m/p","Output":"FAIL\n"}
			{"Action":"fail","Package":"m/p"}`,
			result{failed: []test{{"m/p.TestA", "    a_test.go:1: no\n"}}},
		},
		"did not end": {
			`{"Action":"run","Package":"m/p","Test":"TestA"}
			{"Action":"output","Package":"m/p","Test":"TestA","Output":"panic: test timed out\n"}
			{"Action":"run","Package":"m/pp","Test":"TestB"}
			{"Action":"output","Package":"m/p","Output":"FAIL\tm/p\t600s\n"}
			{"Action":"fail","Package":"m/p"}
			{"Action":"pass","Package":"m/pp","Test":"TestB"}`,
			result{passed: 1, failed: []test{{"m/p.TestA", "panic: test timed out\n"}}},
		},
		"goroutines are left": {
			`{"Action":"pass","Package":"m/p","Test":"TestA"}
			{"Action":"output","Package":"m/p","Output":"pgtest: goroutines are left\n"}
			{"Action":"fail","Package":"m/p"}`,
			result{passed: 1, failed: []test{{"m/p", "pgtest: goroutines are left\n"}}},
		},
		"did not compile": {
			`{"ImportPath":"m/p [m/p.test]","Action":"build-output","Output":"undefined: x\n"}
			{"ImportPath":"m/p [m/p.test]","Action":"build-fail"}
			{"Action":"output","Package":"m/p","Output":"FAIL\tm/p [build failed]\n"}
			{"Action":"fail","Package":"m/p","FailedBuild":"m/p [m/p.test]"}`,
			result{failed: []test{{"m/p [m/p.test]", "undefined: x\n"}, {"m/p", "FAIL\tm/p [build failed]\n"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := read(strings.NewReader(tt.events))
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
	_, err := read(strings.NewReader("go: cannot find module"))
	require.Error(t, err)
}

package main

import (
	"os"
	"path/filepath"
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

func TestWhatPassesAloneIsUnsteady(t *testing.T) {
	t.Parallel()
	r := result{failed: []test{{name: "m/a.TestA/x y/z"}, {name: "m/a.TestA"}, {name: "m/a.TestAB"}, {name: "m/b"}}}
	all := topLevel(r.failed)
	assert.Equal(t, []topTest{{"m/a", "TestA"}, {"m/a", "TestAB"}}, all)
	r.steady(all[0])
	assert.Equal(t, []test{{name: "m/a.TestAB"}, {name: "m/b"}}, r.failed)
	assert.Equal(t, []test{{name: "m/a.TestA/x y/z"}, {name: "m/a.TestA"}}, r.unsteady)
}

// A module with a test that fails the first time, and one that fails always.
func TestWhatFailsIsRunAgainAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module m\n",
		"m_test.go": `package m

import (
	"os"
	"testing"
)

func TestOnce(t *testing.T) {
	if f, err := os.OpenFile("ran", os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		_ = f.Close()
		t.Error("the first time")
	}
}

func TestAlways(t *testing.T) { t.Error("always") }
`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	r, err := suite(t.Context(), dir, "")
	require.NoError(t, err)
	require.Len(t, r.failed, 1)
	assert.Equal(t, "m.TestAlways", r.failed[0].name)
	require.Len(t, r.unsteady, 1)
	assert.Equal(t, "m.TestOnce", r.unsteady[0].name)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// result is what tests came to.
type result struct {
	passed   int
	failed   []test
	unsteady []test // they failed beside the others, and passed alone
	skipped  []test
}

// test is one that failed or was skipped, or a package that failed as a whole.
type test struct {
	name string
	said string // all it wrote, or why it was skipped
}

// suiteWithin bounds the tests of a package, on a machine that others use too.
const suiteWithin = 40 * time.Minute

// fewFailed is how many tests may be unsteady. Where more fail, it is not for
// the load.
const fewFailed = 3

// suite runs all tests on the PostgreSQL in bin, and those that fail, where they
// are few, once more and alone.
func suite(ctx context.Context, root, bin string) (result, error) {
	r, err := goTest(ctx, root, bin, "./...")
	if err != nil {
		return r, err
	}
	again := topLevel(r.failed)
	if len(again) > fewFailed {
		return r, nil
	}
	for _, t := range again {
		alone, err := goTest(ctx, root, bin, "-run", "^"+t.name+"$", t.pkg)
		if err != nil {
			return r, err
		}
		if len(alone.failed) == 0 && alone.passed > 0 {
			r.steady(t)
		}
	}
	return r, nil
}

// topTest is a test that is no subtest.
type topTest struct{ pkg, name string }

func (t topTest) holds(name string) bool {
	whole := t.pkg + "." + t.name
	return name == whole || strings.HasPrefix(name, whole+"/")
}

// topLevel are the tests that failed, without subtests and without packages that
// failed as a whole.
func topLevel(failed []test) []topTest {
	var all []topTest
	for _, f := range failed {
		pkg, name, ok := strings.Cut(f.name, ".")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, "/")
		if t := (topTest{pkg, name}); !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return all
}

// steady moves a test and its subtests from those that failed.
func (r *result) steady(t topTest) {
	r.failed = slices.DeleteFunc(r.failed, func(f test) bool {
		if !t.holds(f.name) {
			return false
		}
		r.unsteady = append(r.unsteady, f)
		return true
	})
}

func goTest(ctx context.Context, root, bin string, args ...string) (result, error) {
	cmd := command(ctx, root, bin, "go", append([]string{"test", "-json", "-count=1", "-timeout", suiteWithin.String()}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	r, readErr := read(stdout)
	err = cmd.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); ended && len(r.failed) > 0 {
		err = nil // it says so by what failed
	}
	if err := errors.Join(readErr, err); err != nil {
		return r, fmt.Errorf("%w\n%s", err, &stderr)
	}
	return r, nil
}

// event is a line of go test -json (go doc test2json).
type event struct {
	Action, Package, ImportPath, Test, Output string
}

// read collects what becomes of each test. A test that has subtests counts
// beside them.
func read(events io.Reader) (result, error) {
	var r result
	said := map[string]*strings.Builder{} // of what has not ended
	broken := map[string]bool{}           // packages in which a test failed
	decoder := json.NewDecoder(events)
	for {
		var e event
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return r, fmt.Errorf("read what the tests say: %w", err)
		}
		name := strings.TrimSuffix(e.Package+e.ImportPath+"."+e.Test, ".")
		if said[name] == nil {
			said[name] = new(strings.Builder)
		}
		switch e.Action {
		case "output", "build-output":
			said[name].WriteString(e.Output)
		case "pass":
			if e.Test != "" {
				r.passed++
			}
			delete(said, name)
		case "skip":
			if e.Test != "" {
				r.skipped = append(r.skipped, test{name, reason(said[name].String())})
			}
			delete(said, name)
		case "fail", "build-fail":
			// A package fails for its tests, and then has no more to say. Where it
			// did not get to their end, those under way say why.
			if e.Test == "" {
				for _, open := range slices.Sorted(maps.Keys(said)) {
					if strings.HasPrefix(open, e.Package+".") && e.Package != "" {
						r.failed = append(r.failed, test{open, said[open].String()})
						broken[e.Package] = true
						delete(said, open)
					}
				}
			}
			if e.Test != "" || !broken[e.Package] {
				r.failed = append(r.failed, test{name, said[name].String()})
			}
			broken[e.Package] = true
			delete(said, name)
		}
	}
}

// logged is a line that a test wrote with its place in the source.
var logged = regexp.MustCompile(`^\s*\S+\.go:\d+: (.*)$`)

// reason finds why a test was skipped: the last that it logged.
func reason(said string) string {
	for _, line := range slices.Backward(strings.Split(said, "\n")) {
		if match := logged.FindStringSubmatch(line); match != nil {
			return strings.TrimPrefix(match[1], "SKIPPED: ")
		}
	}
	return "without a reason"
}

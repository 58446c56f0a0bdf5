// Package overlay mutates sources for one build: the compiler is given the
// mutated files in place of the true ones (go help build, -overlay), and nothing
// in the tree is changed.
package overlay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// An Edit replaces what must occur in a file exactly once.
type Edit struct {
	File string // from the module's root, with slashes
	Old  string // empty: there is no such file, and New is all of it
	New  string
}

// Write puts the mutated files into dir and returns the file for -overlay. Edits
// of one file are made in their order.
func Write(root, dir string, edits []Edit) (string, error) {
	replace := map[string]string{}
	for i, e := range edits {
		path := filepath.Join(root, filepath.FromSlash(e.File))
		from := path
		if mutated, ok := replace[path]; ok {
			from = mutated
		}
		var text []byte
		if e.Old != "" {
			var err error
			if text, err = os.ReadFile(from); err != nil {
				return "", err
			}
			if n := bytes.Count(text, []byte(e.Old)); n != 1 {
				return "", fmt.Errorf("no longer applies: %s has this %d times, not once:\n%s", e.File, n, e.Old)
			}
		} else if _, err := os.Stat(path); err == nil {
			return "", fmt.Errorf("no longer applies: there is a file %s", e.File)
		}
		to := filepath.Join(dir, fmt.Sprintf("%d-%s", i, filepath.Base(path)))
		if err := os.WriteFile(to, bytes.Replace(text, []byte(e.Old), []byte(e.New), 1), 0o600); err != nil {
			return "", err
		}
		replace[path] = to
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, text, 0o600)
}

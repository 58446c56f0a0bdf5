// Package page writes what a command printed into a page of the documentation.
package page

import (
	"fmt"
	"os"
	"strings"
)

// Replace puts a text into a page, between the markers of that name.
func Replace(page, name, text string) error {
	begin, end := "<!-- begin of the "+name+" -->", "<!-- end of the "+name+" -->"
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q", page, begin, end)
	}
	return os.WriteFile(page, []byte(before+begin+"\n"+text+end+after), 0o644)
}

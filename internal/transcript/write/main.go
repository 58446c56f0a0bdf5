// Command write types a page into a shell in this folder, and writes what that
// answered, and how long each part took, into the page.
//
//	go run ./internal/transcript/write docs/quickstart.md
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"tokenalert/internal/transcript"
)

// timed is where the table of times begins; it is the end of the page.
const timed = "<!-- timed -->\n"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: write PAGE.md")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "write:", err)
		os.Exit(1)
	}
}

func write(file string) error {
	text, err := os.ReadFile(file) //nolint:gosec // a page that the developer names
	if err != nil {
		return err
	}
	page, _, found := strings.Cut(string(text), timed)
	if !found {
		return fmt.Errorf("%s has no line %s", file, timed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	played, err := transcript.Play(ctx, page, ".", os.Environ())
	if err != nil {
		return err
	}
	var times strings.Builder
	times.WriteString("## How long it took\n\n| | seconds |\n|---|---|\n")
	var all time.Duration
	for _, b := range played {
		first, _, _ := strings.Cut(b.Commands, "\n")
		fmt.Fprintf(&times, "| `%s` … | %.1f |\n", first, b.Took.Seconds())
		all += b.Took
	}
	fmt.Fprintf(&times, "| all | %.1f |\n", all.Seconds())
	return os.WriteFile(file, []byte(transcript.Write(page, played)+timed+"\n"+times.String()), 0o644) //nolint:gosec // a page of the documentation, for everybody to read
}

// Command picture draws docs/demo.svg from a run of the demo: it gives the
// demo a terminal, reads what that shows when most of the time is over, and
// writes it as SVG. Nothing in the picture is drawn by hand.
//
//	go run ./internal/picture docs/demo.svg
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/hinshun/vt10x"

	"tokenalert/internal/terminal"
)

const (
	columns, rows = 100, 32
	// Of a run this long the picture shows what can be seen after seenAfter.
	duration, seenAfter = 20 * time.Second, 16 * time.Second
	within              = 5 * time.Minute // with the build, and a download of PostgreSQL
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: picture FILE.svg")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	command := exec.Command("go", "run", "./cmd/tokenalert", "demo", "--for", duration.String()) //nolint:gosec // no shell, and a duration
	command.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NO_COLOR=") }), "TERM=xterm-256color")
	t, err := terminal.Start(command, columns, rows)
	if err != nil {
		return err
	}
	defer func() { _ = t.Close() }()
	timeout := time.After(within)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	var picture bytes.Buffer
	for {
		select {
		case <-timeout:
			return fmt.Errorf("the demo does not end within %s:\n%s", within, t.Page())
		case <-t.Ended():
			switch {
			case command.ProcessState.ExitCode() != 0:
				return fmt.Errorf("the demo: %s\n%s", command.ProcessState, t.Page())
			case picture.Len() == 0:
				return errors.New("the demo drew no page")
			}
			return os.WriteFile(file, picture.Bytes(), 0o644) //nolint:gosec // a page of the documentation, for everybody to read
		case <-look.C:
			if picture.Len() == 0 && strings.Contains(t.Page(), fmt.Sprintf("%.0f of %.0f s", seenAfter.Seconds(), duration.Seconds())) {
				t.Cells(func(cell func(x, y int) vt10x.Glyph) { draw(&picture, columns, rows, cell) })
			}
		}
	}
}

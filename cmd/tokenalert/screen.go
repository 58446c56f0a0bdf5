package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"

	"tokenalert/store"
)

// screen is a page on a terminal, drawn anew every so often until somebody
// types q, Esc or Ctrl-C, or the context ends. The terminal is given back as it
// was found, whatever ends it.
//
// It is written here because the usual library asks the terminal for its
// colours when it is merely linked, in every command.
type screen struct {
	every time.Duration
	// draw returns the lines of a page, width cells wide and height lines high.
	draw func(width, height int) []string
}

// Control sequences of xterm and all that came after it
// (https://invisible-island.net/xterm/ctlseqs/ctlseqs.html).
const (
	enterPage = "\x1b[?1049h\x1b[?25l"       // the other screen buffer, no cursor
	leavePage = "\x1b[m\x1b[?25h\x1b[?1049l" // and back
	beginPage = "\x1b[?2026h\x1b[H"          // show nothing half drawn; to the upper left
	clearLine = "\x1b[K"                     // first: behind a full line it would clear the last cell
	clearRest = "\r\n\x1b[J"                 // what was below the last line
	endPage   = "\x1b[?2026l"
)

// ownTerminal is where keys come from, whatever standard input is.
const ownTerminal = "/dev/tty"

// pageOn returns w where a page can be drawn on it and keys can be read, else nil.
func pageOn(w io.Writer) *os.File {
	keys, err := os.Open(ownTerminal)
	if err != nil {
		return nil
	}
	_ = keys.Close()
	return terminalOf(w)
}

// run shows the page on out, which is a terminal.
func (s screen) run(ctx context.Context, out *os.File) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGQUIT) // by default a dump, over the page
	defer stop()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)

	keys, err := os.Open(ownTerminal)
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	defer func() { _ = keys.Close() }() // which ends the reading
	leave, err := enter(out)
	if err != nil {
		return fmt.Errorf("draw on the terminal: %w", err)
	}
	defer leave()
	quit := make(chan struct{})
	go func() {
		defer close(quit)
		awaitQuit(keys)
	}()

	t := time.NewTicker(s.every)
	defer t.Stop()
	for last := ""; ; {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil {
			return fmt.Errorf("size of the terminal: %w", err)
		}
		if page := s.page(width, height); page != last {
			if _, err := out.WriteString(page); err != nil {
				return fmt.Errorf("draw on the terminal: %w", err)
			}
			last = page
		}
		select {
		case <-ctx.Done():
			return nil
		case <-quit:
			return nil
		case <-resized:
			last = "" // what is left of it is not known
		case <-t.C:
		}
	}
}

func (s screen) page(width, height int) string {
	lines := s.draw(width, height)
	lines = lines[:min(len(lines), height)]
	for i, line := range lines {
		lines[i] = clearLine + ansi.Truncate(line, width, "")
	}
	text := strings.Join(lines, "\r\n")
	if len(lines) < height {
		text += clearRest
	}
	return beginPage + text + endPage
}

// awaitQuit returns when a key is typed that quits, or no key can come.
func awaitQuit(keys io.Reader) {
	var typed [64]byte
	for {
		n, err := keys.Read(typed[:])
		if err != nil {
			return
		}
		// Esc alone: an arrow key begins with it.
		if s := string(typed[:n]); s == "\x1b" || strings.ContainsAny(s, "qQ\x03") {
			return
		}
	}
}

// given is how to give the terminal back that a page is on; nil: there is none.
var given struct {
	sync.Mutex
	back func()
}

// enter takes the terminal and returns what gives it back, once.
func enter(out *os.File) (leave func(), err error) {
	before, err := term.MakeRaw(int(out.Fd()))
	if err != nil {
		return nil, err
	}
	given.Lock()
	given.back = func() {
		_, _ = out.WriteString(leavePage) // nothing can be done about it
		_ = term.Restore(int(out.Fd()), before)
	}
	given.Unlock()
	_, err = out.WriteString(enterPage)
	return releaseTerminal, err
}

// releaseTerminal gives the terminal back if a page is on it, or waits until it
// has been. It is also for whoever exits without returning.
func releaseTerminal() {
	given.Lock()
	defer given.Unlock()
	if given.back != nil {
		given.back()
		given.back = nil
	}
}

// watchStatus shows the status until somebody quits. A look that fails is said
// on the page, and the next one tried: whoever watches wants to see it come back.
func watchStatus(ctx context.Context, out *os.File, look func(context.Context) (store.Status, error), every time.Duration) error {
	first, err := look(ctx)
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	looked := newLatest(first)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for wait(watching, every) {
			looked.set(look(watching))
		}
	}()
	v := newView(out)
	err = screen{every: min(every, time.Second/4), draw: func(width, _ int) []string {
		status, err := looked.get()
		lines := v.status(status, width)
		if err != nil {
			lines = append(lines, "", v.bad.Render("cannot look")+": "+plain(strings.Join(strings.Fields(err.Error()), " ")))
		}
		return append(lines, "", v.faint.Render("q to quit"))
	}}.run(watching, out)
	stop()
	<-finished
	return err
}

// wait reports whether ctx is still going on after d.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Package terminal gives a command a terminal of its own and sees what that
// shows, for tests and for the picture of the demo.
package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
	"golang.org/x/term"
)

// Terminal is a terminal with a command on it. What it shows is what an
// emulator makes of the bytes.
type Terminal struct {
	Cmd *exec.Cmd

	master, slave *os.File
	before        *term.State // of the line, before the command had it
	ended         chan struct{}
	read          chan struct{}

	mu       sync.Mutex
	emulator vt10x.Terminal
	written  bytes.Buffer
}

// Start starts cmd on a terminal of that many columns and rows, as the leader
// of a session of its own.
func Start(cmd *exec.Cmd, columns, rows int) (*Terminal, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	t := &Terminal{
		Cmd: cmd, master: master, slave: slave, ended: make(chan struct{}), read: make(chan struct{}),
		emulator: vt10x.New(vt10x.WithSize(columns, rows)),
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	t.before, err = term.GetState(int(slave.Fd()))
	if err == nil {
		err = pty.Setsize(master, size(columns, rows))
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start on a terminal: %w", err), slave.Close(), master.Close())
	}
	go func() {
		defer close(t.read)
		t.follow()
	}()
	go func() {
		defer close(t.ended)
		_ = cmd.Wait() // the status is in ProcessState
	}()
	return t, nil
}

func size(columns, rows int) *pty.Winsize {
	return &pty.Winsize{Cols: uint16(columns), Rows: uint16(rows)} //nolint:gosec // the size of a terminal in a test or a picture
}

// follow gives the emulator what the command writes, in whole characters.
func (t *Terminal) follow() {
	var chunk [4096]byte
	rest := 0
	for {
		n, err := t.master.Read(chunk[rest:])
		if err != nil {
			return // closed
		}
		n += rest
		whole := n
		for i := 1; i < utf8.UTFMax && i <= n; i++ {
			if start := chunk[n-i]; utf8.RuneStart(start) {
				if !utf8.FullRune(chunk[n-i : n]) {
					whole = n - i
				}
				break
			}
		}
		t.mu.Lock()
		t.written.Write(chunk[:whole])
		_, _ = t.emulator.Write(chunk[:whole]) // it takes all that is whole
		t.mu.Unlock()
		rest = copy(chunk[:], chunk[whole:n])
	}
}

// Ended is closed when the command has ended.
func (t *Terminal) Ended() <-chan struct{} { return t.ended }

// Close kills the command, where it still runs, and closes the terminal.
func (t *Terminal) Close() error {
	_ = t.Cmd.Process.Kill() // fails where it has ended
	<-t.ended
	err := errors.Join(t.slave.Close(), t.master.Close())
	<-t.read
	return err
}

// Page is what can be seen.
func (t *Terminal) Page() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.emulator.String()
}

// Written is every byte that the command wrote.
func (t *Terminal) Written() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.written.String()
}

// Cells hands what can be seen to see, cell by cell on demand, of one moment.
func (t *Terminal) Cells(see func(cell func(x, y int) vt10x.Glyph)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	see(t.emulator.Cell)
}

// Type types keys.
func (t *Terminal) Type(keys string) error {
	_, err := t.master.WriteString(keys)
	return err
}

// Resize changes its size, and the command hears of it.
func (t *Terminal) Resize(columns, rows int) error {
	t.mu.Lock()
	t.emulator.Resize(columns, rows)
	t.mu.Unlock()
	return pty.Setsize(t.master, size(columns, rows))
}

// Drawn reports whether the command shows a page of its own, in place of lines.
func (t *Terminal) Drawn() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.emulator.Mode()&vt10x.ModeAltScreen != 0
}

// Restored says in which way the terminal is not as it was found, if it is not.
func (t *Terminal) Restored() error {
	if t.Drawn() {
		return errors.New("the page is still up")
	}
	t.mu.Lock()
	visible := t.emulator.CursorVisible()
	t.mu.Unlock()
	if !visible {
		return errors.New("the cursor is hidden")
	}
	after, err := term.GetState(int(t.slave.Fd()))
	if err != nil {
		return fmt.Errorf("settings of the line: %w", err)
	}
	if *after != *t.before {
		return errors.New("the settings of the line differ: echo, signals, or line by line")
	}
	return nil
}

package privatepg

import (
	"bytes"
	"io"
	"sync"
)

const (
	tailBytes = 16 << 10
	tailLines = 20
)

// tail passes on what is written to it and remembers the end, so that a server
// that does not start can be quoted.
type tail struct {
	next io.Writer // may be nil

	mu  sync.Mutex
	end []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if surplus := len(t.end) - tailBytes; surplus > 0 {
		t.end = append(t.end[:0], t.end[surplus:]...)
	}
	if t.next != nil {
		// An error here would close the pipe that the server writes to.
		_, _ = t.next.Write(p)
	}
	return len(p), nil
}

// lastLines returns the last lines written.
func (t *tail) lastLines() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(t.end), []byte("\n"))
	if surplus := len(lines) - tailLines; surplus > 0 {
		lines = lines[surplus:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}

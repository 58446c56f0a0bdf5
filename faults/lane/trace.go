package lane

import (
	"encoding/json"
	"os"
	"sync"
	"time"
)

// A tracer writes what happens in a schedule, a line for each thing.
type tracer struct {
	mu    sync.Mutex
	file  *os.File
	began time.Time
}

func newTracer(path string) (*tracer, error) {
	file, err := os.Create(path)
	return &tracer{file: file, began: time.Now()}, err
}

func (t *tracer) close() error { return t.file.Close() }

// trace writes a line of pairs of names and values.
func (s *site) trace(what string, pairs ...any) {
	line := map[string]any{"what": what, "ts": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")}
	for i := 0; i+1 < len(pairs); i += 2 {
		line[pairs[i].(string)] = pairs[i+1]
	}
	line["ms"] = float64(time.Since(s.tracer.began).Microseconds()) / 1000
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // what we trace is ours
	}
	s.tracer.mu.Lock()
	defer s.tracer.mu.Unlock()
	_, _ = s.tracer.file.Write(append(text, '\n')) // a trace that cannot be written is missed where it is looked for
}

package main

import (
	"sync"

	"tokenalert/store"
)

// latest is the last status that was seen, and why there is none newer.
type latest struct {
	mu     sync.Mutex
	status store.Status
	err    error
}

func newLatest(status store.Status) *latest { return &latest{status: status} }

func (l *latest) set(status store.Status, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err = err; err == nil {
		l.status = status
	}
}

func (l *latest) get() (store.Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status, l.err
}

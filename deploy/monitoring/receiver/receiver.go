// Package receiver takes the webhooks of workers that are watched, or refuses them.
package receiver

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A Receiver answers 204 until it is told otherwise.
type Receiver struct {
	address string

	mu     sync.Mutex
	server *http.Server // nil while it is down
	status int
	got    map[string]int // how often it took each alert, by its id
}

// Start starts one on this machine.
func Start(ctx context.Context) (*Receiver, error) {
	r := &Receiver{address: "127.0.0.1:0", status: http.StatusNoContent, got: map[string]int{}}
	return r, r.Up(ctx)
}

// Up has it listen, where it did before.
func (r *Receiver) Up(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", r.address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.address, r.server = listener.Addr().String(), server
	go func() { _ = server.Serve(listener) }() // until Down
	return nil
}

// Down has connections refused.
func (r *Receiver) Down() {
	r.mu.Lock()
	server := r.server
	r.server = nil
	r.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// Answer has it answer with a status; it takes alerts with one of 2xx.
func (r *Receiver) Answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// Took is how often it took an alert.
func (r *Receiver) Took(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got[id]
}

// Settings are those of a worker that posts to it.
func (r *Receiver) Settings() []string {
	return []string{
		"TOKENALERT_WEBHOOK_URL=http://" + r.address + "/alerts", "TOKENALERT_WEBHOOK_ALLOW=127.0.0.1",
		"TOKENALERT_WEBHOOK_SECRET=whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32))),
	}
}

func (r *Receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status < http.StatusMultipleChoices {
		r.got[request.Header.Get("webhook-id")]++
	}
	w.WriteHeader(r.status)
}

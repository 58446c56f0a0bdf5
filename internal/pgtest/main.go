package pgtest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tokenalert/internal/privatepg"
)

const stopWithin = 20 * time.Second

// shared is the binary's server. A failed start fails every test that asks.
var shared struct {
	sync.Mutex
	instance *Instance
	err      error
}

// Main is for TestMain. It runs the tests and what is to be done after them,
// stops the server, and fails when goroutines are left. It does not return.
func Main(m *testing.M, after ...func()) {
	code := m.Run()
	for _, f := range after {
		f()
	}
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	// After a failure leaks are likely, and not the news.
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func stopShared() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.instance == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	return shared.instance.server.Stop(ctx)
}

// sharedInstance starts the binary's server on first use.
func sharedInstance(t testing.TB) *Instance {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.instance == nil && shared.err == nil {
		shared.instance, shared.err = newInstance(context.Background(), privatepg.Options{})
	}
	if shared.err != nil {
		t.Fatal("pgtest:", shared.err)
	}
	return shared.instance
}

// New clones a template on the binary's server.
func New(t testing.TB, tpl Template) *DB {
	t.Helper()
	return sharedInstance(t).New(t, tpl)
}

// Server returns the binary's server. Other tests use it too: it is not to be
// stopped.
func Server(t testing.TB) *privatepg.Server {
	t.Helper()
	return sharedInstance(t).server
}

// StartServer starts a server for one test, with settings for postgresql.conf,
// which the test may crash and restart. It is stopped when the test ends.
func StartServer(t testing.TB, settings map[string]string) *Instance {
	t.Helper()
	return start(t, privatepg.Options{Settings: settings})
}

// StartTCPServer is StartServer for whom no socket can be given: a container.
func StartTCPServer(t testing.TB) *Instance {
	t.Helper()
	return start(t, privatepg.Options{TCP: true})
}

func start(t testing.TB, o privatepg.Options) *Instance {
	t.Helper()
	in, err := newInstance(t.Context(), o)
	if err != nil {
		t.Fatal("pgtest:", err)
	}
	in.disposable = true
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		if err := in.server.Stop(ctx); err != nil {
			t.Error("pgtest:", err)
		}
	})
	return in
}

package line

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// A Line is the way from one worker to its server. Its methods may be called
// from several goroutines.
//
// From the worker it goes: front, proxy, back, server.
type Line struct {
	front *relay
	proxy *toxiproxy.Proxy
	back  *relay // nil: the proxy reaches the server itself
	host  string
	port  int
	ns    *namespace // nil: over 127.0.0.1

	mu      sync.Mutex
	cut     bool
	dropped bool
}

// ErrNoNamespace is returned by Drop where packets cannot be dropped; see NamespaceFault.
var ErrNoNamespace = errors.New("the line has no network namespace of its own")

// quiet is what a proxy wants of the program that it is usually part of.
var quiet = toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())

// New makes a line to the server at upstream: host and port, or the path of a
// Unix socket.
func New(ctx context.Context, upstream string) (*Line, error) {
	l := &Line{host: loopback}
	if err := l.open(ctx, upstream); err != nil {
		return nil, errors.Join(fmt.Errorf("make a line: %w", err), l.Close())
	}
	return l, nil
}

const (
	loopback = "127.0.0.1"
	anyPort  = loopback + ":0"
)

func (l *Line) open(ctx context.Context, upstream string) error {
	if NamespaceFault() == "" {
		ns, err := newNamespace(ctx)
		if err != nil {
			return err
		}
		l.ns, l.host = ns, ns.here
	}
	if strings.HasPrefix(upstream, "/") {
		back := &relay{address: anyPort, network: "unix", server: upstream}
		if err := back.start(); err != nil {
			return err
		}
		l.back, upstream = back, back.address
	}
	proxy := toxiproxy.NewProxy(quiet, "line", anyPort, upstream)
	if err := proxy.Start(); err != nil {
		return err
	}
	l.proxy = proxy
	front := &relay{address: net.JoinHostPort(l.host, "0"), network: "tcp", server: proxy.Listen} // now with its port
	if err := front.start(); err != nil {
		return err
	}
	l.front = front
	_, port, err := net.SplitHostPort(front.address)
	if err != nil {
		return err
	}
	l.port, err = strconv.Atoi(port)
	return err
}

// Address is where the worker connects to.
func (l *Line) Address() (host string, port int) { return l.host, l.port }

// Worker is the address of the worker's end.
func (l *Line) Worker() string {
	if l.ns == nil {
		return l.host
	}
	return l.ns.there
}

// Command prepares a program to run at the worker's end. Its process id is the
// program's own.
func (l *Line) Command(name string, arg ...string) *exec.Cmd {
	if l.ns == nil {
		return exec.Command(name, arg...)
	}
	return exec.Command("ip", append([]string{"netns", "exec", l.ns.name, name}, arg...)...)
}

// Cut resets every connection of the worker, and refuses new ones until Heal. To
// the server they just end.
func (l *Line) Cut() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil
	}
	l.front.stop()
	l.proxy.Stop() // whatever is held up in it
	l.cut = true
	return nil
}

// Delay has what is sent from now on arrive later, both ways, by latency give or
// take jitter.
func (l *Line) Delay(latency, jitter time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, direction := range directions {
		attributes := fmt.Sprintf(`{"latency":%d,"jitter":%d}`, latency.Milliseconds(), jitter.Milliseconds())
		if err := l.add("latency", direction, attributes); err != nil {
			return err
		}
	}
	return nil
}

// Drip has answers arrive a few bytes at a time.
func (l *Line) Drip(bytes int, pause time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.add("slicer", "downstream", fmt.Sprintf(`{"average_size":%d,"size_variation":%d,"delay":%d}`, bytes, bytes/2, pause.Microseconds()))
}

// Swallow takes what is sent, both ways, and passes nothing on. Connections that
// have lost something so are closed by Heal.
func (l *Line) Swallow() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, direction := range directions {
		if err := l.add("timeout", direction, `{"timeout":0}`); err != nil {
			return err
		}
	}
	return nil
}

// Drop has packets vanish: all, or only those to the worker.
func (l *Line) Drop(oneWay bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ns == nil {
		return ErrNoNamespace
	}
	if l.dropped {
		return nil
	}
	if err := l.ns.drop(oneWay); err != nil {
		return err
	}
	l.dropped = true
	return nil
}

// Heal takes back all of it.
func (l *Line) Heal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	if l.dropped {
		errs = append(errs, l.ns.heal())
		l.dropped = false
	}
	reset := make(chan struct{})
	go func() {
		l.proxy.Toxics.ResetToxics(context.Background())
		close(reset)
	}()
	select {
	case <-reset:
		if l.cut {
			errs = append(errs, l.proxy.Start(), l.front.start())
		}
	case <-time.After(resetWithin):
		errs = append(errs, l.renew())
	}
	l.cut = false
	return errors.Join(errs...)
}

// resetWithin is far more than a proxy takes that does not wait for ever: it
// asks each connection to let go, also one that ends at that moment and answers
// no more.
const resetWithin = 2 * time.Second

// renew puts another proxy in the place of one that answers no more. Connections
// are reset.
func (l *Line) renew() error {
	if !l.cut {
		l.front.stop()
	}
	go l.proxy.Stop() // it may wait as well
	proxy := toxiproxy.NewProxy(quiet, "line", anyPort, l.proxy.Upstream)
	if err := proxy.Start(); err != nil {
		return err
	}
	l.proxy, l.front.server = proxy, proxy.Listen
	return l.front.start()
}

// Close takes the line down, with its connections.
func (l *Line) Close() error {
	if l.front != nil {
		l.front.stop()
	}
	if l.proxy != nil {
		l.proxy.Stop()
	}
	if l.back != nil {
		l.back.stop()
	}
	if l.ns != nil {
		return l.ns.close()
	}
	return nil
}

var directions = []string{"upstream", "downstream"}

// add gives the proxy a toxic, unless it has that.
func (l *Line) add(kind, direction, attributes string) error {
	name := kind + " " + direction
	if l.proxy.Toxics.GetToxic(name) != nil {
		return nil
	}
	_, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name":%q,"type":%q,"stream":%q,"toxicity":1,"attributes":%s}`, name, kind, direction, attributes)))
	if err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return nil
}

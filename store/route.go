package store

import (
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// A route is the order in which the hosts of a connection string are tried, of
// which after a failover another takes writes. It begins with the host that the
// lead's session is on, so that ticks go where the lead is and wait for no host
// that is dead; and where that one failed, or only reads, with the next: however
// many do not answer, and however long each is waited for, the turn of the one
// that does comes.
type route struct {
	hosts []station

	mu    sync.Mutex
	first int
}

// station is a host and the ways to connect to it: for some values of sslmode
// there are two.
type station []*pgconn.FallbackConfig

func (s station) same(c *pgconn.FallbackConfig) bool {
	return s[0].Host == c.Host && s[0].Port == c.Port
}

func newRoute(c *pgconn.Config) *route {
	r := &route{}
	all := append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
	for _, way := range all {
		if last := len(r.hosts) - 1; last >= 0 && r.hosts[last].same(way) {
			r.hosts[last] = append(r.hosts[last], way)
		} else {
			r.hosts = append(r.hosts, station{way})
		}
	}
	return r
}

// order are the hosts, the one to be tried first before the others.
func (r *route) order() []station {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Concat(r.hosts[r.first:], r.hosts[:r.first])
}

// follow begins with a host from here on, where it is one of ours.
func (r *route) follow(to station) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.hosts, func(h station) bool { return h.same(to[0]) }); i >= 0 {
		r.first = i
	}
}

// leave begins with the next host from here on.
func (r *route) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first = (r.first + 1) % len(r.hosts)
}

// directTo has a configuration connect to stations, in this order.
func directTo(c *pgconn.Config, stations ...station) {
	ways := slices.Concat(stations...)
	c.Host, c.Port, c.TLSConfig = ways[0].Host, ways[0].Port, ways[0].TLSConfig
	c.Fallbacks = ways[1:]
}

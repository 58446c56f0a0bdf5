package worker

import (
	"sync"
	"time"
)

// zones are those of policies, as this binary knows them.
type zones struct {
	mu     sync.Mutex
	loaded map[string]*time.Location
}

// named is a zone by its name, or otherwise where this binary does not know it,
// which the server does.
func (z *zones) named(name string, otherwise *time.Location) *time.Location {
	z.mu.Lock()
	defer z.mu.Unlock()
	if zone, ok := z.loaded[name]; ok {
		return zone
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		zone = otherwise
	}
	if z.loaded == nil {
		z.loaded = map[string]*time.Location{}
	}
	z.loaded[name] = zone
	return zone
}

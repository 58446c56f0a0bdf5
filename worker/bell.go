package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"tokenalert/store"
)

// errLead ends the lead at once: its session does not do what it is told.
var errLead = errors.New("the lead's session fails")

// bell is the leader's side of the doorbell. It rings only while somebody
// sleeps: armed before going to sleep, silenced on waking. It is a lease, so a
// worker that dies cannot leave it on.
//
// The barrier: whoever looked at the bell before it was armed will not ring. So
// after arming, the loop takes a transaction id H. Usage rows take theirs (a
// column default) before the trigger looks at the bell, so a transaction that
// looked before the arming has an id below H. Once the lowest running id has
// reached H, all of those have ended; one last look finds what they committed,
// and whatever commits later rings. A snapshot's xmax would not do for H:
// running transactions may lie above it.
type bell struct {
	muted bool // never armed: the loop polls
	rung  chan struct{}

	lease, renewal, ping time.Duration
	lead                 *store.Lead
	metrics              *Metrics
	log                  *zap.Logger

	mu sync.Mutex
	// When it was armed or renewed last; zero: silent. A new leader takes it to be
	// armed, by one that died: every insert looks whether that lease has ended.
	armed time.Time
}

func newBell(lead *store.Lead, c Config, m *Metrics, log *zap.Logger, muted string) *bell {
	if muted != "" {
		log.Info("polling in place of the bell", Event(EventBellMuted), zap.String("reason", muted))
	}
	return &bell{
		muted: muted != "", rung: make(chan struct{}, 1),
		lease: c.BellLease, renewal: c.BellRenewal, ping: c.LeadPing,
		lead: lead, metrics: m, log: log, armed: time.Now(),
	}
}

// poke wakes the loop. It never blocks.
func (b *bell) poke() {
	select {
	case b.rung <- struct{}{}:
	default:
	}
}

func (b *bell) arm(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.set(ctx)
	return err
}

// renew extends the lease of an armed bell where it would come due before the
// next ping. A lease found lapsed is a fresh arming: the loop is woken, so that
// it goes through the barrier again.
func (b *bell) renew(ctx context.Context) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed.IsZero() || time.Since(b.armed) < b.renewal-b.ping {
		return false, nil
	}
	was, err := b.set(ctx)
	if err == nil && !was {
		b.poke()
	}
	return err == nil, err
}

// set arms the bell until a lease from now and reports whether it was armed.
func (b *bell) set(ctx context.Context) (bool, error) {
	was, err := b.lead.Arm(ctx, b.lease)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errLead, err)
	}
	b.armed = time.Now()
	b.metrics.BellArmed.Set(1)
	b.log.Debug("bell armed", Event(EventBellArmed), zap.Time("armed_until", b.armed.Add(b.lease)))
	return was, nil
}

func (b *bell) silence(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed.IsZero() {
		return nil
	}
	if err := b.lead.Disarm(ctx); err != nil {
		return fmt.Errorf("%w: %w", errLead, err)
	}
	b.armed = time.Time{}
	b.metrics.BellArmed.Set(0)
	b.log.Debug("bell silenced", Event(EventBellDisarmed))
	return nil
}

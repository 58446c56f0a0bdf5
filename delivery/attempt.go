package delivery

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"tokenalert/store"
	"tokenalert/worker"
)

// A channel hands an alert over. An error is permanent, or a laterError, or it is
// tried again.
type channel interface {
	deliver(ctx context.Context, a *store.ToldAlert) error
}

// attemptTimeout bounds one attempt, whatever it meets.
const attemptTimeout = 45 * time.Second

// attempts works River's jobs.
type attempts struct {
	river.WorkerDefaults[store.Delivery]
	*Deliverer
	queue    *store.Queue
	channels map[string]channel
	next     sync.Map // job's id: time of the next attempt, from tell to NextRetry
}

// Work delivers one alert by one channel. What it returns is for River: nil
// completes the job, a cancellation ends it, anything else has it tried again.
func (w *attempts) Work(ctx context.Context, job *river.Job[store.Delivery]) error {
	began := time.Now()
	a, err := w.queue.Alert(ctx, job.Args)
	switch {
	case err == nil && a == nil:
		return river.JobCancel(store.ErrNobody) // no failure
	case err == nil:
		err = w.deliver(ctx, job.Args.Channel, a)
	}
	if later, ok := errors.AsType[laterError](err); ok && errors.Is(err, errBusy) {
		return river.JobSnooze(later.after) // not tried, and no failure
	}
	if err != nil && w.stopping(ctx) {
		return err // River has it tried again
	}
	return w.tell(job, a, err, began)
}

func (w *attempts) deliver(ctx context.Context, name string, a *store.ToldAlert) error {
	c, known := w.channels[name]
	if !known {
		return errors.New("this worker does not deliver by this channel")
	}
	return c.deliver(ctx, a)
}

// tell says what became of an attempt: to the log, to the metrics, and to River.
func (w *attempts) tell(job *river.Job[store.Delivery], a *store.ToldAlert, err error, began time.Time) error {
	fields := []zap.Field{
		zap.Stringer("alert", job.Args.AlertID), zap.String("channel", job.Args.Channel), zap.Int("attempt", job.Attempt),
	}
	if job.Args.Admin != nil {
		fields = append(fields, zap.Stringer("admin", job.Args.Admin))
	}
	switch {
	case a == nil:
	case a.Budget:
		fields = append(fields, zap.Stringer("organization", a.OrganizationID), zap.Int32("threshold", a.Threshold))
	default:
		fields = append(fields, zap.Stringer("user", a.UserID), zap.Int32("threshold", a.Threshold))
	}
	age := time.Since(job.CreatedAt)
	if err == nil {
		w.Metrics.Delivery(job.Args.Channel, worker.OutcomeDelivered, age)
		w.Log.Info("alert delivered", append(fields, worker.Event(worker.EventDeliveryCompleted),
			zap.Duration("delivery_ms", age), zap.Duration("duration_ms", time.Since(began)))...)
		return nil
	}
	fields = append(fields, zap.Error(err))
	pause := pauseAfter(w.pace.first, job.ID, job.Attempt)
	if later, ok := errors.AsType[laterError](err); ok {
		pause = max(pause, later.after)
	}
	if isPermanent(err) || time.Since(triedSince(job.JobRow, time.Now()))+pause > giveUpAge {
		w.Metrics.Delivery(job.Args.Channel, worker.OutcomeFailed, age)
		w.Log.Error("alert not delivered", append(fields, worker.Event(worker.EventDeliveryFailed))...)
		return river.JobCancel(err)
	}
	w.Metrics.Delivery(job.Args.Channel, worker.OutcomeRetried, age)
	at := time.Now().Add(pause)
	w.next.Store(job.ID, at)
	w.Log.Warn("alert not delivered yet; trying again", append(fields, worker.Event(worker.EventDeliveryRetried), zap.Time("retry_at", at))...)
	return err
}

// NextRetry is River's question when a job comes next whose attempt failed, asked
// once Work has returned.
func (w *attempts) NextRetry(job *river.Job[store.Delivery]) time.Time {
	if at, told := w.next.LoadAndDelete(job.ID); told {
		return at.(time.Time)
	}
	return time.Now().Add(w.pace.first) // ended by a stop
}

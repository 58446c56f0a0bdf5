package delivery

import (
	"context"
	"log/slog"

	"go.uber.org/zap"

	"tokenalert/worker"
)

// riverLog writes what River says at warn and above into our log, as one event.
func riverLog(log *zap.Logger) *slog.Logger { return slog.New(&riverHandler{log: log}) }

type riverHandler struct{ log *zap.Logger }

// Enabled leaves out what River says while all is well.
func (h *riverHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn
}

// Handle writes the message and, of its attributes, the error. The others hold
// ids of River's own, and the arguments of a job.
func (h *riverHandler) Handle(_ context.Context, r slog.Record) error {
	fields := []zap.Field{zap.String("reason", r.Message)}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" || a.Key == "error" {
			fields = append(fields, zap.String("error", a.Value.String()))
		}
		return true
	})
	if r.Level >= slog.LevelError {
		h.log.Error("the queue of deliveries met an error", append(fields, worker.Event(worker.EventDeliveryQueue))...)
	} else {
		h.log.Warn("the queue of deliveries met an error", append(fields, worker.Event(worker.EventDeliveryQueue))...)
	}
	return nil
}

// WithAttrs and WithGroup are not used by what Handle takes.
func (h *riverHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup is as WithAttrs.
func (h *riverHandler) WithGroup(string) slog.Handler { return h }

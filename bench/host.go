package main

import (
	"context"
	"os/exec"

	"tokenalert/internal/host"
)

// hostTrigger is what the host did by itself: a trigger that sums the user's
// month on every insert. It has the table of notifications, without which its
// first alert would fail.
type hostTrigger struct{}

func (hostTrigger) install(ctx context.Context, db *database) error {
	if err := host.ApplyTrigger(ctx, db.control); err != nil {
		return err
	}
	return host.ApplyNotifications(ctx, db.control)
}

func (hostTrigger) worker(*database) *exec.Cmd                       { return nil }
func (hostTrigger) ready() string                                    { return "" }
func (hostTrigger) drained(context.Context, *database) (bool, error) { return true, nil }

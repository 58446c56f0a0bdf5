package delivery

import (
	"encoding/json"
	"errors"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/riverqueue/river/rivertype"
)

// A delivery that fails is tried again after ten seconds, then after twice as
// long each time, up to an hour, for a day.
const (
	firstPause = 10 * time.Second
	lastPause  = time.Hour
	giveUpAge  = 24 * time.Hour
	// doublings of the first pause that reach beyond the last.
	mostDoublings = 9
)

// pauseAfter is how long to wait after attempt, the first being 1. It is up to a
// tenth shorter, by the job's id, so that what failed together does not come back
// together.
func pauseAfter(first time.Duration, id int64, attempt int) time.Duration {
	pause := min(first<<min(max(attempt-1, 0), mostDoublings), lastPause)
	h := fnv.New32a()
	_, _ = h.Write([]byte(strconv.FormatInt(id, 10))) // never fails
	return pause - time.Duration(int64(pause)/10*int64(h.Sum32()%1000)/1000)
}

// triedSince is since when a job is tried in vain: since it first failed, or first
// again after somebody had it tried again; now, where it has not before. A job may
// have waited for days for somebody to take it, and clocks differ.
func triedSince(job *rivertype.JobRow, now time.Time) time.Time {
	var m struct {
		RetriedAt time.Time `json:"retried_at"`
	}
	_ = json.Unmarshal(job.Metadata, &m) // where it is not ours, nobody had it tried again
	for _, failed := range job.Errors {
		if failed.At.After(m.RetriedAt) {
			return failed.At
		}
	}
	return now
}

// permanentError will not be better tomorrow.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func permanent(err error) error { return permanentError{err} }

func isPermanent(err error) bool {
	_, is := errors.AsType[permanentError](err)
	return is
}

// laterError names a time to wait for.
type laterError struct {
	error
	after time.Duration
}

func (e laterError) Unwrap() error { return e.error }

// errBusy means that a server has as many of ours as it gets at a time.
var errBusy = errors.New("the server has as many deliveries as it gets at a time")

package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// logClock is the time that lines are written at.
type logClock struct{ now time.Time }

func newLogClock() *logClock {
	return &logClock{time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.FixedZone("", -3*60*60))}
}

func (c *logClock) Now() time.Time                         { return c.now }
func (c *logClock) NewTicker(d time.Duration) *time.Ticker { return time.NewTicker(d) }

func (c *logClock) pass(d time.Duration) { c.now = c.now.Add(d) }

func newTestLogger(t *testing.T, clock *logClock) (*zap.Logger, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	log, err := NewLogger("info", "json", &out, Pipe)
	require.NoError(t, err)
	return log.WithOptions(zap.WithClock(clock)), &out
}

func readLogLines(t *testing.T, out *bytes.Buffer) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for text := range strings.Lines(out.String()) {
		var line map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		lines = append(lines, line)
	}
	return lines
}

// briefLines renders what the storm tests are about: event, error and times.
func briefLines(t *testing.T, out *bytes.Buffer) []string {
	t.Helper()
	var lines []string
	for _, line := range readLogLines(t, out) {
		text := fmt.Sprint(line["event"])
		if line["event"] == string(EventStormSummary) {
			text = fmt.Sprintf("%v more of %v", line["times"], line["repeated"])
		}
		for _, about := range []string{"user", "setting"} {
			if line[about] != nil {
				text += fmt.Sprint(" ", line[about])
			}
		}
		if line["error"] != nil {
			text += fmt.Sprint(": ", line["error"])
		}
		lines = append(lines, text)
	}
	return lines
}

func TestLoggerJSON(t *testing.T) {
	t.Parallel()
	log, out := newTestLogger(t, newLogClock())
	log.Debug("not written", Event(EventBellArmed))
	log.Info("tick completed", Event(EventTickCompleted), zap.Int64("tick", 7), zap.Duration("duration_ms", 1_234_567))
	assert.JSONEq(t, `{"ts":"2026-03-01T15:00:00.123Z","level":"info","msg":"tick completed","event":"tick.completed","tick":7,"duration_ms":1.235}`, out.String())
}

func TestLoggerFormats(t *testing.T) {
	t.Parallel()
	tests := []struct {
		format string
		medium Medium
		json   bool
		color  bool
	}{
		{"json", Pipe, true, false},
		{"json", ColourTerminal, true, false},
		{"auto", Pipe, true, false},
		{"auto", PlainTerminal, false, false},
		{"auto", ColourTerminal, false, true},
		{"console", Pipe, false, false},
		{"console", PlainTerminal, false, false},
		{"console", ColourTerminal, false, true},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.format, test.medium), func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			log, err := NewLogger("debug", test.format, &out, test.medium)
			require.NoError(t, err)
			log.Debug("the bell is armed", Event(EventBellArmed))
			assert.Equal(t, test.json, json.Valid(out.Bytes()), out.String())
			assert.Equal(t, test.color, strings.Contains(out.String(), "\x1b["), out.String())
			assert.Contains(t, out.String(), "the bell is armed")
			assert.Contains(t, out.String(), "bell.armed")
		})
	}
}

func TestLoggerRefuses(t *testing.T) {
	t.Parallel()
	_, err := NewLogger("loud", "json", &bytes.Buffer{}, Pipe)
	require.EqualError(t, err, `log level "loud": want debug, info, warn or error`)
	_, err = NewLogger("info", "xml", &bytes.Buffer{}, Pipe)
	require.EqualError(t, err, `log format "xml": want auto, json or console`)
}

func TestStorm(t *testing.T) {
	t.Parallel()
	failed := func(log *zap.Logger, text string) {
		log.Warn("the tick failed", Event(EventTickFailed), zap.Error(errors.New(text)))
	}
	tests := []struct {
		name  string
		lines func(log *zap.Logger, clock *logClock)
		want  []string
	}{
		{
			"once a minute",
			func(log *zap.Logger, clock *logClock) {
				for range 150 { // for 149 seconds
					failed(log, "deadlock")
					clock.pass(time.Second)
				}
			},
			[]string{"tick.failed: deadlock", "60 more of tick.failed: deadlock", "60 more of tick.failed: deadlock"},
		},
		{
			"stops",
			func(log *zap.Logger, clock *logClock) {
				for range 4 {
					failed(log, "deadlock")
				}
				clock.pass(time.Minute)
				log.Info("waiting", Event(EventFollowerWaiting))
				failed(log, "deadlock")
			},
			[]string{"tick.failed: deadlock", "3 more of tick.failed: deadlock", "follower.waiting", "tick.failed: deadlock"},
		},
		{
			"changes",
			func(log *zap.Logger, _ *logClock) {
				failed(log, "deadlock")
				failed(log, "deadlock")
				failed(log, "timeout")
				failed(log, "timeout")
			},
			[]string{"tick.failed: deadlock", "1 more of tick.failed: deadlock", "tick.failed: timeout"},
		},
		{
			"takes turns",
			func(log *zap.Logger, clock *logClock) {
				for range 100 {
					failed(log, "deadlock")
					failed(log, "timeout")
				}
				clock.pass(time.Minute)
				log.Info("waiting", Event(EventFollowerWaiting))
			},
			[]string{"tick.failed: deadlock", "tick.failed: timeout", "99 more of tick.failed: deadlock", "99 more of tick.failed: timeout", "follower.waiting"},
		},
		{
			"ends when the database is back, and begins anew",
			func(log *zap.Logger, _ *logClock) {
				for range 2 {
					for range 5 {
						log.Warn("no database", Event(EventDatabaseUnreachable), zap.Error(errors.New("refused")))
					}
					log.Info("a database", Event(EventDatabaseConnected))
				}
			},
			[]string{
				"database.unreachable: refused", "4 more of database.unreachable: refused", "database.connected",
				"database.unreachable: refused", "4 more of database.unreachable: refused", "database.connected",
			},
		},
		{
			"users apart",
			func(log *zap.Logger, clock *logClock) {
				for _, user := range []string{"a", "b", "a", "b"} {
					log.With(zap.String("user", user)).Error("set aside", Event(EventUserSetAside), zap.Error(errors.New("overflow")))
				}
				clock.pass(2 * time.Minute)
				log.Info("waiting", Event(EventFollowerWaiting))
			},
			[]string{
				"user.set_aside a: overflow", "user.set_aside b: overflow",
				"1 more of user.set_aside a: overflow", "1 more of user.set_aside b: overflow", "follower.waiting",
			},
		},
		{
			"settings apart",
			func(log *zap.Logger, _ *logClock) {
				for _, setting := range []string{"zone", "thresholds", "zone"} {
					log.Warn("configured otherwise", Event(EventSettingsDiffer), zap.String("setting", setting))
				}
				require.NoError(t, log.Sync())
			},
			[]string{"settings.differ zone", "settings.differ thresholds", "1 more of settings.differ zone"},
		},
		{
			"ephemeral ports are no difference",
			func(log *zap.Logger, _ *logClock) {
				failed(log, "read tcp 10.0.0.1:40001->10.0.0.2:5432: connection reset by peer")
				failed(log, "read tcp 10.0.0.1:40002->10.0.0.2:5432: connection reset by peer")
			},
			[]string{"tick.failed: read tcp <address>-><address>: connection reset by peer"},
		},
		{
			"information and alerts are not counted",
			func(log *zap.Logger, _ *logClock) {
				for range 2 {
					log.Info("waiting", Event(EventFollowerWaiting))
					log.Info("told", Event(EventAlertSent), zap.String("user", "a"))
					log.Error("not told", Event(EventAlertSuppressed), zap.String("user", "a"))
				}
			},
			[]string{"follower.waiting", "alert.sent a", "alert.suppressed a", "follower.waiting", "alert.sent a", "alert.suppressed a"},
		},
		{
			"a clock that is set back",
			func(log *zap.Logger, clock *logClock) {
				failed(log, "deadlock")
				clock.pass(-time.Hour)
				failed(log, "deadlock")
				require.NoError(t, log.Sync())
			},
			[]string{"tick.failed: deadlock", "1 more of tick.failed: deadlock"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			clock := newLogClock()
			log, out := newTestLogger(t, clock)
			test.lines(log, clock)
			// Storms of different users or errors are summed up in any order.
			assert.ElementsMatch(t, test.want, briefLines(t, out))
			if !strings.Contains(test.name, "turns") && !strings.Contains(test.name, "users") {
				assert.Equal(t, test.want, briefLines(t, out))
			}
		})
	}
}

func TestStormSummary(t *testing.T) {
	t.Parallel()
	clock := newLogClock()
	log, out := newTestLogger(t, clock)
	for range 3 {
		log.With(zap.Int("tick", 3)).Error("set aside", Event(EventUserSetAside), zap.String("user", "a"), zap.Error(errors.New("overflow")))
		clock.pass(time.Second)
	}
	require.NoError(t, log.Sync())
	require.NoError(t, log.Sync(), "a second time, nothing is left")

	lines := readLogLines(t, out)
	require.Len(t, lines, 2)
	assert.Equal(t, map[string]any{
		"ts": "2026-03-01T15:00:02.123Z", "level": "error", "msg": "the same line again", "event": "storm.summary",
		"repeated": "user.set_aside", "user": "a", "error": "overflow", "times": 2.0, "since": "2026-03-01T15:00:00.123Z",
	}, lines[1])
}

// However many different lines there are: memory is bounded and no line is lost.
func TestStormOfDifferentLines(t *testing.T) {
	t.Parallel()
	log, out := newTestLogger(t, newLogClock())
	const users = 3*stormLines + 1
	for user := range users {
		for range 2 {
			log.Error("set aside", Event(EventUserSetAside), zap.Int("user", user), zap.Error(errors.New("overflow")))
		}
	}
	storms := log.Core().(*stormCore).storms
	assert.LessOrEqual(t, len(storms.lines), stormLines)
	require.NoError(t, log.Sync())
	assert.Len(t, readLogLines(t, out), 2*users)
}

// Lines about budgets are of an organization; and a delivery that is given up is one
// of many that look alike.
func TestStormOfOrganizations(t *testing.T) {
	t.Parallel()
	log, out := newTestLogger(t, newLogClock())
	for _, organization := range []uuid.UUID{{1}, {2}, {1}} {
		log.Error("set aside", Event(EventUserSetAside), zap.Stringer("organization", organization), zap.Error(errors.New("the same")))
		log.Error("not delivered", Event(EventDeliveryFailed), zap.Stringer("organization", organization), zap.Error(errors.New("the same")))
		log.Error("set aside", Event(EventUserSetAside), zap.Stringer("organization", organization), zap.Stringer("user", uuid.UUID{7}), zap.Error(errors.New("the same")))
	}
	count := map[string]int{}
	for _, line := range readLogLines(t, out) {
		count[line["event"].(string)+" "+fmt.Sprint(line["user"] != nil)]++
	}
	assert.Equal(t, map[string]int{"user.set_aside false": 2, "user.set_aside true": 1, "delivery.failed false": 3}, count)
}

// A line that does not come again is forgotten.
func TestStormForgets(t *testing.T) {
	t.Parallel()
	clock := newLogClock()
	log, _ := newTestLogger(t, clock)
	storms := log.Core().(*stormCore).storms
	log.Warn("the tick failed", Event(EventTickFailed), zap.Error(errors.New("deadlock")))
	assert.Len(t, storms.lines, 1)
	clock.pass(stormEvery)
	log.Info("waiting", Event(EventFollowerWaiting))
	assert.Empty(t, storms.lines)
}

func TestStormFromManyGoroutines(t *testing.T) {
	t.Parallel()
	log, out := newTestLogger(t, newLogClock())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				log.Warn("the tick failed", Event(EventTickFailed), zap.Error(errors.New("deadlock")))
			}
		})
	}
	wg.Wait()
	require.NoError(t, log.Sync())
	assert.Equal(t, []string{"tick.failed: deadlock", "7999 more of tick.failed: deadlock"}, briefLines(t, out))
}

func TestLoggerMasksAddresses(t *testing.T) {
	t.Parallel()
	tests := []struct{ text, want string }{
		{"canceling statement due to lock timeout (SQLSTATE 55P03)", "canceling statement due to lock timeout (SQLSTATE 55P03)"},
		{
			"failed to connect to `user=tokenalert database=cms`: 10.0.0.5:5432 (db.example.org): dial error: dial tcp 10.0.0.5:5432: connect: connection refused",
			"failed to connect to `user=tokenalert database=cms`: <address>: dial error: dial tcp <address>: connect: connection refused",
		},
		{
			"failed to connect to `user=tokenalert database=cms`:\n\t[::1]:5432 (localhost): dial error\n\t127.0.0.1:5432 (localhost): server error: FATAL: password authentication failed for user \"tokenalert\" (SQLSTATE 28P01)",
			"failed to connect to `user=tokenalert database=cms`:\n\t<address>: dial error\n\t<address>: server error: FATAL: password authentication failed for user \"tokenalert\" (SQLSTATE 28P01)",
		},
		{"hostname resolving error: lookup db.example.org on 10.96.0.10:53: no such host", "hostname resolving error: lookup <address> on <address>: no such host"},
		{"lookup db: no such host", "lookup <address>: no such host"},
		{"read tcp 10.0.0.1:40001->[fe80::1%eth0]:5432: i/o timeout", "read tcp <address>-><address>: i/o timeout"},
		{"read tcp [2001:db8::1]:40001->[2001:db8::2]:5432: i/o timeout", "read tcp <address>-><address>: i/o timeout"},
		{`no pg_hba.conf entry for host "10.0.0.1", user "tokenalert", database "cms"`, `no pg_hba.conf entry for host "<address>", user "tokenalert", database "cms"`},
		{"tls: failed to verify certificate: x509: certificate is valid for a.example.org, b.example.org, not db.example.org", "tls: failed to verify certificate: x509: certificate is valid for <address>"},
		{"cannot parse `postgres://me:secret@db/cms`: failed", "cannot parse `<address>`: failed"},
		{`invalid input syntax for type uuid: "ana.maria@example.org"`, `invalid input syntax for type uuid: "<address>"`},
		{"listen tcp :8080: bind: address already in use", "listen tcp :8080: bind: address already in use"},
		{"http: panic serving 192.0.2.7:51234: nil map", "http: panic serving <address>: nil map"},
		{"dial tcp db.example.org:5432: timeout", "dial tcp <address>: timeout"},
		{`column "created_at" is of type date at 12:30:45.5`, `column "created_at" is of type date at 12:30:45.5`},
		{"function tokenalert.period_start(integer, text) does not exist", "function tokenalert.period_start(integer, text) does not exist"},
		{"operator does not exist: jsonb @> integer", "operator does not exist: jsonb @> integer"},
		{`cannot cast '1'::text`, `cannot cast '1'::text`},
	}
	for _, test := range tests {
		t.Run(test.text, func(t *testing.T) {
			t.Parallel()
			log, out := newTestLogger(t, newLogClock())
			err := errors.New(test.text)
			log.Warn("one", Event(EventTickFailed), zap.Error(err))
			log.Warn("two", Event(EventLeaderLost), zap.String("error", test.text))
			log.With(zap.Error(err)).Info("three", Event(EventBellMuted), zap.String("reason", test.text))
			for _, line := range readLogLines(t, out) {
				assert.Equal(t, test.want, line["error"])
				assert.NotContains(t, line, "errorVerbose")
			}
			assert.Equal(t, test.want, readLogLines(t, out)[2]["reason"])
		})
	}
}

func BenchmarkLoggerTick(b *testing.B) {
	log, err := NewLogger("info", "json", &bytes.Buffer{}, Pipe)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		log.Info("tick completed", Event(EventTickCompleted), zap.Int64("tick", 7), zap.Int("rows", 12))
	}
}

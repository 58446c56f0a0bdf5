package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/worker"
)

// askedLog is a log of several workers, and the questions of docs/events.md.
type askedLog struct {
	*platform
	questions map[string]string // what to type, by its heading
	bin       string            // of kubectl and jq
}

// newAskedLog has a kubectl that writes the log to be asked, and a jq.
func newAskedLog(p *platform) *askedLog {
	t := p.t
	t.Helper()
	text, err := os.ReadFile("../../docs/events.md")
	require.NoError(t, err)
	a := &askedLog{platform: p, questions: map[string]string{}, bin: t.TempDir()}
	for _, question := range regexp.MustCompile("(?ms)^### ([^\n]+)\n\n```sh cluster\n(.*?)^```\n").FindAllStringSubmatch(string(text), -1) {
		a.questions[question[1]] = question[2]
	}
	kubectl := "#!/bin/sh\n[ \"$*\" = 'logs -l app.kubernetes.io/name=tokenalert --tail=-1 --ignore-errors' ] && cat \"$LOG\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(a.bin, "kubectl"), []byte(kubectl), 0o700)) //nolint:gosec // a program
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, filepath.Join(a.bin, "jq"))) // see TestMain
	return a
}

// ask types the line of a question and returns the answer's lines, each as its columns.
func (a *askedLog) ask(log, question string, environment ...string) [][]string {
	a.t.Helper()
	require.Contains(a.t, a.questions, question)
	file := filepath.Join(a.t.TempDir(), "log")
	require.NoError(a.t, os.WriteFile(file, []byte(log), 0o600))
	shell := exec.CommandContext(a.t.Context(), "sh", "-euc", a.questions[question]) //nolint:gosec // what the page shows
	shell.Env = append(os.Environ(), append(environment, "LOG="+file, "PATH="+a.bin+":"+os.Getenv("PATH"))...)
	var said strings.Builder
	shell.Stderr = &said
	out, err := shell.Output()
	require.NoError(a.t, err, said.String())
	require.Empty(a.t, said.String())
	var answer [][]string
	for line := range strings.Lines(string(out)) {
		answer = append(answer, regexp.MustCompile(`\t|  +`).Split(strings.TrimSuffix(line, "\n"), -1))
	}
	return answer
}

// rows returns what a query returns, each row as its columns.
func (p *platform) rows(sql string, args ...any) [][]string {
	p.t.Helper()
	rows, err := p.admin.Query(p.t.Context(), sql, args...)
	require.NoError(p.t, err)
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]string, error) {
		values, err := row.Values()
		var columns []string
		for _, v := range values {
			columns = append(columns, fmt.Sprint(v))
		}
		return columns, err
	})
	require.NoError(p.t, err)
	return all
}

// TestQuestions asks the log of workers that told people, kept from telling them,
// gave up the lead, lost it, were killed, caught up, and delivered to a receiver
// that takes an alert when it is asked again, and another one never, what
// docs/events.md asks, and compares the answers with the database.
func TestQuestions(t *testing.T) {
	t.Parallel()
	p := newStraightPlatform(t)
	a := newAskedLog(p)
	// As it is deployed; and slices as short as they can be.
	name := func(name string) []string {
		return []string{"TOKENALERT_WORKER_NAME=" + name, "TOKENALERT_LOG_LEVEL=info", "TOKENALERT_TICK_TARGET=8ms"}
	}
	const more = "TOKENALERT_THRESHOLDS=80,90,95,100"

	one := p.leads(name("one")...)
	two := p.follows(append(name("two"), more)...)
	two.await(worker.EventSettingsDiffer, 1)
	told, jumped, poison, late, lost, bulk := p.user(1000), p.user(1000), p.user(1000), p.user(1000), p.user(1000), p.user(0)
	p.eventually("SELECT NOT EXISTS (SELECT FROM tokenalert.recounts)", "the new users are not seen") // with whom a row has no latency
	p.use(told, 850)
	one.await(worker.EventAlertSent, 1)
	p.use(jumped, 1050)
	one.await(worker.EventAlertSent, 2)

	corrected := ask[string](p, "SELECT "+inLog("clock_timestamp()"))
	for _, tokens := range []int{100, 860} { // back, and over the threshold again
		p.exec("UPDATE ai_usage_logs SET tokens_used = $2 WHERE user_id = $1", told, tokens)
		p.eventually("SELECT tokens_used = $2 FROM tokenalert.usage_periods WHERE user_id = $1", "not corrected", told, tokens)
	}
	one.await(worker.EventAlertSuppressed, 3) // superseded twice, and already told

	p.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.user_id = '` + poison.String() + `' THEN RAISE 'not this one'; END IF;
			RETURN NEW;
		END $$`)
	p.exec("CREATE TRIGGER refuse BEFORE INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION refuse()")
	p.use(poison, 850)
	one.await(worker.EventUserSetAside, 1)

	one.terminate()
	two.await(worker.EventLeaderAcquired, 1)
	two.await(worker.EventAlertSuppressed, 1) // the threshold that is new
	_, err := p.admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'tokenalert lead%'`)
	require.NoError(t, err)
	two.await(worker.EventLeaderAcquired, 2)
	two.signal(syscall.SIGKILL)
	two.wait()

	p.use(late, 950)
	const transactions, rows = 4, 1500
	for range transactions {
		p.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used)
			SELECT $1::uuid, $2::uuid, 1 FROM generate_series(1, $3::integer)`, bulk, p.org, rows)
	}
	answers := make(chan int, 3)
	answers <- http.StatusInternalServerError
	answers <- http.StatusNoContent
	answers <- http.StatusGone
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(<-answers) }))
	defer receiver.Close()
	three := p.leads(append(name("three"), more, "TOKENALERT_WEBHOOK_URL="+receiver.URL, "TOKENALERT_WEBHOOK_ALLOW=127.0.0.1",
		"TOKENALERT_WEBHOOK_SECRET=whsec_"+strings.Repeat("c2VjcmV0", 4))...)
	p.counted(bulk, transactions*rows)
	three.await(worker.EventAlertSent, 1)
	three.await(worker.EventDeliveryRetried, 1)
	p.eventually("SELECT state = 'retryable' FROM tokenalert.river_job", "River does not note it")
	exit, _, stderr := typed(t, databaseEnvironment(p.db.WorkerURLs()), "deliveries", "retry", ask[string](p, "SELECT id::text FROM tokenalert.river_job"))
	require.Equal(t, 0, exit, stderr)
	three.await(worker.EventDeliveryCompleted, 1)
	p.use(lost, 850)
	three.await(worker.EventDeliveryFailed, 1)

	nowhere := startProcess(t, append(runEnvironment("postgres:///nowhere?host="+t.TempDir(), ""), name("nowhere")...), "run")
	eventually(t, func() bool { return nowhere.metric(`tokenalert_reconnects_total{connection="lead"}`) >= 3 }, "it does not try again")
	nowhere.terminate()
	wrong := startProcess(t, []string{"TOKENALERT_THRESHOLDS=none"}, "run")
	require.Equal(t, 1, wrong.wait())
	require.NotEmpty(t, wrong.stderr.String(), "what is no JSON is in the log too")
	p.asleep()

	// What is in the log of a container that ran longer, and is no answer.
	aged := firstLine(t, one, worker.EventUserSetAside) + strings.Replace(firstLine(t, one, worker.EventAlertSent), "latency_ms", "latency", 1)
	aged = regexp.MustCompile(`\b20\d\d-\d\d-`).ReplaceAllString(aged, "2020-01-")
	log := aged + one.stdout.String() + wrong.stderr.String() + three.stdout.String() + nowhere.stdout.String() + two.stdout.String()

	all := slices.Concat(one.log(""), two.log(""), three.log(""), nowhere.log(""))
	slices.SortStableFunc(all, func(a, b map[string]any) int { return strings.Compare(a["ts"].(string), b["ts"].(string)) })
	of := func(event worker.EventName) (lines []map[string]any) {
		for _, l := range all {
			if l["event"] == string(event) {
				lines = append(lines, l)
			}
		}
		return lines
	}

	checks := map[string]func(t *testing.T, question string){
		"Who was told today?": func(t *testing.T, question string) {
			var answer [][]string
			for _, columns := range a.ask(log, question) {
				answer = append(answer, columns[1:])
			}
			assert.ElementsMatch(t, p.rows(`SELECT user_id::text, alert_threshold, trunc(percent_used, 1)::float8 FROM token_limit_alerts
				WHERE alert_sent AND sent_at >= date_trunc('day', now())`), answer)
			assert.Len(t, answer, 4)
		},
		"Why was this user not told?": func(t *testing.T, question string) {
			reasons := func(user uuid.UUID) (found [][]string) {
				for _, columns := range a.ask(log, question, "USER_ID="+user.String()) {
					found = append(found, append(columns[1:3:3], columns[4:]...))
				}
				return found
			}
			assert.ElementsMatch(t, p.rows(`SELECT CASE WHEN alert_sent THEN 'alert.sent' ELSE 'alert.suppressed' END, alert_threshold, coalesce(reason, '')
				FROM token_limit_alerts WHERE user_id = $1`, jumped), reasons(jumped))
			assert.Contains(t, reasons(told), []string{"alert.suppressed", "80", "already_told"})
			aside := reasons(poison)
			require.NotEmpty(t, aside)
			assert.Equal(t, "user.set_aside", aside[0][0])
			assert.Contains(t, aside[0][2], "a trigger of the host")
			assert.Empty(t, a.ask(log, question, "USER_ID="+uuid.NewString()))
		},
		"Who led, and when?": func(t *testing.T, question string) {
			answer := a.ask(log, question)
			var order []string
			for _, columns := range answer {
				order = append(order, columns[1]+" "+columns[2])
			}
			assert.Equal(t, []string{
				"one leader.acquired", "one leader.released", "two leader.acquired", "two leader.lost", "two leader.acquired", "three leader.acquired",
			}, order)
			// By the log, whoever led when a tick began, and by the chain, whoever wrote it.
			ticks := p.rows("SELECT " + inLog("started_at") + ", worker FROM tokenalert.ticks ORDER BY id")
			workers := map[string]bool{}
			for _, tick := range ticks {
				leader := ""
				for _, columns := range answer {
					if columns[0] <= tick[0] && columns[2] == string(worker.EventLeaderAcquired) {
						leader = columns[1]
					}
				}
				assert.Equal(t, tick[1], leader, "tick of %s", tick[0])
				workers[tick[1]] = true
			}
			assert.Len(t, workers, 3)
		},
		"How long did hand-overs take?": func(t *testing.T, question string) {
			var want [][]string
			acquired := of(worker.EventLeaderAcquired)
			for n, end := range []map[string]any{of(worker.EventLeaderReleased)[0], of(worker.EventLeaderLost)[0]} {
				next := acquired[n+1]
				took := moment(t, next).Sub(moment(t, end)).Milliseconds()
				want = append(want, []string{next["ts"].(string), end["worker"].(string), next["worker"].(string), strconv.FormatInt(took, 10)})
			}
			assert.Equal(t, want, a.ask(log, question))
			gap := ask[float64](p, `SELECT extract(epoch FROM (SELECT min(started_at) FROM tokenalert.ticks WHERE worker = 'two')
				- (SELECT max(started_at) FROM tokenalert.ticks WHERE worker = 'one'))::float8 * 1000`)
			took, err := strconv.ParseFloat(want[0][3], 64)
			require.NoError(t, err)
			assert.LessOrEqual(t, took, gap+1, "the last tick of one to the first of two")
		},
		"Is it behind?": func(t *testing.T, question string) {
			ticks := three.log(worker.EventTickCompleted)
			last := ticks[len(ticks)-1] // it told nobody: it caught up
			assert.Equal(t, [][]string{{fmt.Sprintf("all was counted at %s", last["ts"])}}, a.ask(log, question))
			counted := ask[string](p, "SELECT "+inLog("max(started_at)")+" FROM tokenalert.ticks WHERE rows > 0")
			assert.GreaterOrEqual(t, last["ts"], counted, "the last tick that found rows")
			// And while it caught up.
			var before strings.Builder
			bounded := map[string]any{}
			for text := range strings.Lines(three.stdout.String()) {
				var l map[string]any
				require.NoError(t, json.Unmarshal([]byte(text), &l))
				before.WriteString(text)
				if l["bounded"] == true {
					bounded = l
					break
				}
			}
			require.NotEmpty(t, bounded, "no tick left rows to the next")
			assert.Equal(t, [][]string{{fmt.Sprintf("behind by %v ms at %s", bounded["behind_ms"], bounded["ts"])}}, a.ask(before.String(), question))
			assert.Positive(t, bounded["behind_ms"])
			assert.Empty(t, a.ask("", question))
		},
		"What failed in the last hour?": func(t *testing.T, question string) {
			times := map[string]int{}
			for _, l := range all {
				if l["level"] != "warn" && l["level"] != "error" {
					continue
				}
				event, n := l["event"].(string), 1
				if l["repeated"] != nil {
					event, n = l["repeated"].(string), int(l["times"].(float64))
				}
				times[event] += n
			}
			answered := map[string]int{}
			most := 0
			for i, columns := range a.ask(log, question) {
				n, err := strconv.Atoi(columns[0])
				require.NoError(t, err)
				if i == 0 {
					most = n
				}
				assert.LessOrEqual(t, n, most, "the most frequent first")
				answered[columns[1]] += n
				assert.NotEmpty(t, columns[2])
			}
			assert.Equal(t, times, answered)
			assert.GreaterOrEqual(t, times[string(worker.EventDatabaseUnreachable)], 3)
			// What nobody has logged is what the database still has.
			assert.Equal(t, ask[int](p, "SELECT count(*)::integer FROM tokenalert.recounts WHERE cause = 'set_aside'"), times[string(worker.EventUserSetAside)])
		},
		"What was corrected?": func(t *testing.T, question string) {
			found := 0
			var users, periods int
			for _, columns := range a.ask(log, question) {
				if columns[0] < corrected || columns[1] != string(worker.EventRecountDone) {
					continue
				}
				var fields struct{ Users, Periods int }
				require.NoError(t, json.Unmarshal([]byte(columns[2]), &fields))
				found++
				users += fields.Users
				periods += fields.Periods
			}
			assert.GreaterOrEqual(t, found, 2)
			assert.GreaterOrEqual(t, users, 2)
			assert.GreaterOrEqual(t, periods, 2)
			assert.Equal(t, 860, ask[int](p, "SELECT tokens_used::integer FROM tokenalert.usage_periods WHERE user_id = $1", told))
		},
		"How long did people wait for their alerts?": func(t *testing.T, question string) {
			answer := a.ask(log, question)
			require.Len(t, answer, 1)
			numbers := regexp.MustCompile(`^(\d+) alerts, p50 ([\d.]+) ms, p99 ([\d.]+) ms$`).FindStringSubmatch(answer[0][0])
			require.NotNil(t, numbers, answer)
			assert.Equal(t, strconv.Itoa(ask[int](p, "SELECT count(*)::integer FROM token_limit_alerts WHERE alert_sent")), numbers[1])
			// From commit to commit; the worker looks at the clock a little later.
			waited := `SELECT percentile_disc($1) WITHIN GROUP (ORDER BY extract(epoch FROM
				pg_xact_commit_timestamp(a.xmin) - pg_xact_commit_timestamp(l.xact_id::xid))::float8 * 1000)
				FROM token_limit_alerts a JOIN ai_usage_logs l USING (user_id) WHERE a.alert_sent`
			for i, fraction := range []float64{0.5, 0.99} {
				ms, err := strconv.ParseFloat(numbers[2+i], 64)
				require.NoError(t, err)
				committed := ask[float64](p, waited, fraction)
				assert.Greater(t, ms, committed-0.001)
				assert.Less(t, ms, committed+1000)
			}
		},
		"Which settings are in force, and who has others?": func(t *testing.T, question string) {
			var last, differs []string
			for _, columns := range a.ask(log, question) {
				switch columns[2] {
				case string(worker.EventLeaderAcquired):
					last = columns
				case string(worker.EventSettingsDiffer):
					differs = columns
				}
			}
			require.Len(t, last, 4)
			assert.Equal(t, "three", last[1])
			inForce := p.rows("SELECT array_to_string(thresholds, ','), time_zone FROM tokenalert.settings")[0]
			assert.JSONEq(t, fmt.Sprintf(`{"thresholds": %q, "time_zone": %q, "bell": "auto"}`, inForce[0], inForce[1]), last[3])
			assert.Equal(t, []string{"80,90,95,100", "UTC"}, inForce)
			require.Len(t, differs, 4)
			assert.Equal(t, "two", differs[1])
			assert.JSONEq(t, `{"setting": "TOKENALERT_THRESHOLDS", "configured": "80,90,95,100", "in_force": "80,90,100"}`, differs[3])
		},
		"What was not told, and why?": func(t *testing.T, question string) {
			answer := map[string]string{}
			for _, columns := range a.ask(log, question) {
				answer[columns[1]] = columns[0]
			}
			want := map[string]string{"already_told": "1"} // of which there is no row
			for _, columns := range p.rows("SELECT count(*), reason FROM token_limit_alerts WHERE NOT alert_sent GROUP BY reason") {
				want[columns[1]] = columns[0]
			}
			assert.Equal(t, want, answer)
			assert.Len(t, want, 3)
		},
		"Who was set aside?": func(t *testing.T, question string) {
			answer := a.ask(log, question)
			require.Len(t, answer, 1)
			retry := ask[string](p, "SELECT "+inLog("max(due_at)")+" FROM tokenalert.recounts WHERE user_id = $1 AND cause = 'set_aside'", poison)
			assert.Equal(t, []string{poison.String(), "P0001", retry}, answer[0][:3])
			assert.Contains(t, answer[0][3], "a trigger of the host")
		},
		"Did this user's alerts arrive?": func(t *testing.T, question string) {
			deliveries := func(user uuid.UUID) (found [][]string) {
				for _, columns := range a.ask(log, question, "USER_ID="+user.String()) {
					found = append(found, columns[1:])
				}
				return found
			}
			assert.Equal(t, [][]string{
				{"webhook", "95", "delivery.retried", "1", "webhook to <address>: it answered 500"}, {"webhook", "95", "delivery.completed", "2", ""},
			}, deliveries(late))
			assert.Equal(t, [][]string{{"webhook", "80", "delivery.failed", "1", "webhook to <address>: it answered 410"}}, deliveries(lost))
			assert.Empty(t, deliveries(told), "nothing was set up")
		},
		"What has not arrived, and why?": func(t *testing.T, question string) {
			answer := a.ask(log, question)
			require.Len(t, answer, 1)
			want := p.rows(`SELECT 'delivery.failed', j.queue, a.user_id::text, 'webhook to <address>: it answered 410'
				FROM tokenalert.river_job j JOIN token_limit_alerts a ON a.id = (j.args ->> 'alert_id')::uuid WHERE j.state = 'cancelled'`)
			assert.Equal(t, want, [][]string{answer[0][1:]})
		},
		"How long did deliveries take?": func(t *testing.T, question string) {
			answer := a.ask(log, question)
			require.Len(t, answer, 1)
			numbers := regexp.MustCompile(`^webhook: 1 alerts, p50 ([\d.]+) ms, p99 ([\d.]+) ms$`).FindStringSubmatch(answer[0][0])
			require.NotNil(t, numbers, answer)
			took, err := strconv.ParseFloat(numbers[1], 64)
			require.NoError(t, err)
			// River notes the end a little later.
			noted := ask[float64](p, "SELECT extract(epoch FROM finalized_at - created_at)::float8 * 1000 FROM tokenalert.river_job WHERE state = 'completed'")
			assert.InDelta(t, noted, took, 1000)
			assert.Equal(t, numbers[1], numbers[2])
		},
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(a.questions)), slices.Collect(maps.Keys(checks)))
	for question, check := range checks {
		t.Run(question, func(t *testing.T) { check(t, question) })
	}
	three.terminate()
}

// inLog is an expression for a time as the log writes it.
func inLog(time string) string { return "to_char(" + time + `, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')` }

// moment is when a line was written, to the millisecond.
func moment(t *testing.T, line map[string]any) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, line["ts"].(string))
	require.NoError(t, err)
	return at
}

// firstLine is the first line of an event as it stands in the log.
func firstLine(t *testing.T, p *process, event worker.EventName) string {
	t.Helper()
	for text := range strings.Lines(p.stdout.String()) {
		if strings.Contains(text, `"event":"`+string(event)+`"`) {
			return text
		}
	}
	require.FailNow(t, "no line "+string(event))
	return ""
}

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
)

// explain types the command as a role, with further variables, and wants it to
// end with a status.
func (p *platform) explain(want int, role string, args []string, environment ...string) (stdout, stderr string) {
	p.t.Helper()
	status, stdout, stderr := typed(p.t, append(environment, databaseEnvironment(p.db.URLs(role))...), append([]string{"explain"}, args...)...)
	require.Equal(p.t, want, status, "%v: %s%s", args, stdout, stderr)
	if want == 0 {
		assert.Empty(p.t, stderr)
	} else {
		assert.Empty(p.t, stdout)
	}
	return stdout, stderr
}

func TestExplain(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	const email = "Ana.Perez@example.org"
	ana, err := host.NewUser(t.Context(), p.owner, host.User{
		Organization: p.org, Email: email, FullName: "Ana\x1b[2J Pérez \u202e日本", Limit: new(10_000),
	})
	require.NoError(t, err)
	stdout, _ := p.explain(0, pgtest.Runtime, []string{ana.String()})
	assert.Contains(t, stdout, "no worker has ever led on this database")

	worker := p.leads("TOKENALERT_WORKER_NAME=worker-of-this-test")
	p.use(ana, 7000)
	p.counted(ana, 7000)
	p.use(ana, 2350)
	p.counted(ana, 9350)
	p.eventually("SELECT EXISTS (SELECT FROM token_limit_alerts WHERE alert_sent)", "nobody is told")

	byID, _ := p.explain(0, pgtest.Runtime, []string{ana.String()})
	for _, part := range []string{
		" was told of 90 % on ", "; the next threshold is 100 %, 650 tokens away.\n",
		"\nUser\n  id            " + ana.String() + "\n", "  limit         10,000 tokens (users.monthly_token_limit), renewed on day 1\n",
		"  used          9,350 tokens, 93.5 %, last changed by tick ", "  rows          add up to 9,350 tokens, as far as counted\n",
		"  marks         80 %, 90 %\n", "  leader        worker-of-this-test, since ",
		"\nThresholds\n", "   80 %  recorded     on ", "   90 %  told         on ", "  100 %  not reached  650 tokens away\n",
		"\nAlerts\n", "  superseded\n", "  told, notification ", "\nNewest usage\n", "\nNotes\n",
	} {
		assert.Contains(t, byID, part)
	}
	assert.Contains(t, strings.SplitN(byID, "\n", 2)[0], "Ana [2J Pérez 日本 was told", "the answer comes first")
	assert.NotContains(t, byID, "\x1b")
	assert.NotContains(t, byID, "\u202e")
	assert.NotContains(t, strings.ToLower(byID), "@example.org")
	aligned(t, byID, "Newest usage")
	aligned(t, byID, "Alerts")

	byEmail, _ := p.explain(0, pgtest.Owner, []string{strings.ToLower(email)})
	assert.Equal(t, withoutClock(byID), withoutClock(byEmail))
	assert.NotContains(t, byEmail, email, "which was typed otherwise")
	worker.terminate()
	stdout, _ = p.explain(0, pgtest.Runtime, []string{ana.String()})
	assert.Contains(t, stdout, "Nobody leads")
}

// withoutClock leaves out when it was.
func withoutClock(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "  as of ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// aligned holds the columns of a section to the places of their names.
func aligned(t *testing.T, text, section string) {
	t.Helper()
	_, after, found := strings.Cut(text, "\n"+section+"\n")
	require.True(t, found)
	table, _, _ := strings.Cut(after, "\n\n")
	lines := strings.Split(strings.TrimRight(table, "\n"), "\n")
	require.Greater(t, len(lines), 2)
	names := strings.Split(strings.TrimSpace(lines[0]), "  ")
	for _, name := range names[1:] {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		at := strings.Index(lines[0], " "+name)
		for _, line := range lines[1:] {
			assert.Equal(t, " ", line[at:at+1], "before %s in %q", name, line)
			assert.NotEqual(t, " ", line[at+1:at+2], "%s in %q", name, line)
		}
	}
}

func TestExplainInJSON(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	ana := p.user(1000)
	worker := p.leads()
	p.use(ana, 700)
	p.counted(ana, 700)
	p.use(ana, 350)
	p.counted(ana, 1050)
	p.eventually("SELECT EXISTS (SELECT FROM token_limit_alerts WHERE alert_sent)", "nobody is told")
	worker.terminate()
	p.use(ana, 1)

	stdout, _ := p.explain(0, pgtest.Runtime, []string{ana.String(), "--output", "json"})
	type verdict struct {
		Threshold int    `json:"threshold"`
		InForce   bool   `json:"in_force"`
		State     string `json:"state"`
		Reason    string `json:"reason"`
		At        string `json:"at"`
		Sentence  string `json:"sentence"`
	}
	var said struct {
		Answer     string    `json:"answer"`
		Thresholds []verdict `json:"thresholds"`
		Previous   []verdict `json:"previous_thresholds"`
		Notes      []string  `json:"notes"`
		Account    struct {
			Now      string         `json:"now"`
			UserID   uuid.UUID      `json:"user_id"`
			Limit    int64          `json:"token_limit"`
			Leader   map[string]any `json:"leader"`
			Settings struct {
				TimeZone   string `json:"time_zone"`
				Thresholds []int  `json:"thresholds"`
			} `json:"settings"`
			Current struct {
				Start       string `json:"start"`
				End         string `json:"end"`
				TokensUsed  int64  `json:"tokens_used"`
				RowsAddUpTo int64  `json:"rows_add_up_to"`
				Marks       []int  `json:"marks"`
			} `json:"current_period"`
			Alerts []struct {
				Threshold      int        `json:"threshold"`
				Sent           bool       `json:"sent"`
				Reason         string     `json:"reason"`
				NotificationID *uuid.UUID `json:"notification_id"`
			} `json:"alerts"`
			Pending []any `json:"pending"`
			Newest  []struct {
				TokensUsed int64  `json:"tokens_used"`
				CountedBy  string `json:"counted_by"`
				Tick       *struct {
					ID int64 `json:"id"`
				} `json:"tick"`
			} `json:"newest"`
			Uncounted struct {
				Rows int64 `json:"rows"`
			} `json:"uncounted"`
		} `json:"account"`
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &said))
	assert.Contains(t, said.Answer, "was told of 100 % on ")
	require.Len(t, said.Thresholds, 3)
	for i, want := range []verdict{{80, true, "recorded", "superseded", "", ""}, {90, true, "recorded", "superseded", "", ""}, {100, true, "told", "", "", ""}} {
		got := said.Thresholds[i]
		assert.True(t, strings.HasSuffix(got.At, "Z") || strings.Contains(got.At, "+"), got.At)
		assert.NotEmpty(t, got.Sentence)
		got.At, got.Sentence = "", ""
		assert.Equal(t, want, got)
	}
	assert.Equal(t, []verdict{}, said.Previous)
	assert.NotEmpty(t, said.Notes)
	a := said.Account
	assert.Equal(t, ana, a.UserID)
	assert.EqualValues(t, 1000, a.Limit)
	assert.Nil(t, a.Leader)
	assert.Equal(t, "UTC", a.Settings.TimeZone)
	assert.Equal(t, []int{80, 90, 100}, a.Settings.Thresholds)
	assert.EqualValues(t, 1050, a.Current.TokensUsed)
	assert.EqualValues(t, 1050, a.Current.RowsAddUpTo)
	assert.Equal(t, []int{80, 90, 100}, a.Current.Marks)
	assert.True(t, strings.HasSuffix(a.Current.Start, "T00:00:00Z"), a.Current.Start)
	assert.True(t, strings.HasSuffix(a.Now, "Z"), a.Now)
	require.Len(t, a.Alerts, 3)
	assert.True(t, a.Alerts[2].Sent)
	assert.NotNil(t, a.Alerts[2].NotificationID)
	assert.NotNil(t, a.Pending, "an empty list, not null")
	require.Len(t, a.Newest, 3)
	assert.Equal(t, "not_yet", a.Newest[0].CountedBy)
	assert.Nil(t, a.Newest[0].Tick)
	assert.Equal(t, "tick", a.Newest[1].CountedBy)
	assert.EqualValues(t, 1, a.Uncounted.Rows)
}

func TestExplainSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	const email = "twin@example.org"
	for _, name := range []string{"One", "Two"} {
		org, err := host.NewOrganization(t.Context(), p.owner, name)
		require.NoError(t, err)
		_, err = host.NewUser(t.Context(), p.owner, host.User{Organization: org, Email: email})
		require.NoError(t, err)
	}
	_, stderr := p.explain(1, pgtest.Runtime, []string{uuid.NewString()})
	assert.Contains(t, stderr, "no user has the id")
	_, stderr = p.explain(1, pgtest.Runtime, []string{email})
	assert.Contains(t, stderr, "role tokenalert_runtime may not read users.email")
	_, stderr = p.explain(1, pgtest.Owner, []string{email, "--output=json"})
	assert.Contains(t, stderr, "2 users have the email")
	_, stderr = p.explain(1, pgtest.Writer, []string{uuid.NewString()})
	assert.Contains(t, stderr, "tokenalert migrate grant host_writer")

	bare := platformOn(t, pgtest.New(t, pgtest.Host(host.CMS)))
	_, stderr = bare.explain(1, pgtest.Owner, []string{email})
	assert.Contains(t, stderr, "tokenalert is not installed in this database")
}

func TestExplainIsColouredForTerminalsOnly(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	user := []string{p.user(1000).String()}
	p.leads().terminate()
	const colour = "\x1b["
	stdout, _ := p.explain(0, pgtest.Runtime, user)
	assert.NotContains(t, stdout, colour, "a pipe")
	coloured, _ := p.explain(0, pgtest.Runtime, user, "CLICOLOR_FORCE=1", "TERM=xterm-256color")
	assert.Contains(t, coloured, colour)
	stdout, _ = p.explain(0, pgtest.Runtime, user, "CLICOLOR_FORCE=1", "TERM=xterm-256color", "NO_COLOR=1")
	assert.NotContains(t, stdout, colour)
	asJSON, _ := p.explain(0, pgtest.Runtime, append(user, "-o", "json"), "CLICOLOR_FORCE=1", "TERM=xterm-256color")
	assert.NotContains(t, asJSON, colour)
	assert.NotContains(t, asJSON, `\u001b`)
}

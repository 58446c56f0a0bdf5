package worker

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/store"
)

var (
	mayBegins  = time.Date(2026, time.May, 1, 0, 0, 0, 0, time.UTC)
	mayEnds    = time.Date(2026, time.June, 1, 0, 0, 0, 0, time.UTC)
	midMay     = time.Date(2026, time.May, 15, 12, 0, 0, 0, time.UTC)
	decideUser = uuid.MustParse("11111111-2222-4333-8444-555555555555")
)

// inMay is a user's May.
func inMay(used, limit int64, marks ...int32) store.Candidate {
	return store.Candidate{
		UserID: decideUser, OrganizationID: uuid.MustParse("99999999-2222-4333-8444-555555555555"), FullName: "Ada Example",
		PeriodStart: mayBegins, PeriodEnd: mayEnds, TokensUsed: used, TokenLimit: limit, Marks: marks,
	}
}

func usualRules() rules {
	return rules{thresholds: []int32{80, 90, 100}, words: BuiltInWords(English), link: "/usage", zone: time.UTC}
}

// inWords writes a decision down: "100 told, 90 superseded | 90 100" has two
// alerts, in the order decided, and two marks; "" is no decision.
func inWords(d store.Decision, changed bool) string {
	if !changed {
		return ""
	}
	var alerts, marks []string
	for _, a := range d.Alerts {
		reason := a.Reason
		if reason == "" {
			reason = "told"
		}
		alerts = append(alerts, fmt.Sprint(a.Threshold, " ", reason))
	}
	for _, m := range d.Marks {
		marks = append(marks, fmt.Sprint(m))
	}
	return strings.Join(alerts, ", ") + " | " + strings.Join(marks, " ")
}

func TestDecideCrossings(t *testing.T) {
	t.Parallel()
	const most = math.MaxInt64
	tests := []struct {
		name string
		c    store.Candidate
		want string
	}{
		{"nothing used", inMay(0, 1000), ""},
		{"exactly 80", inMay(800, 1000), "80 told | 80"},
		{"exactly 90", inMay(900, 1000, 80), "90 told | 80 90"},
		{"exactly 100", inMay(1000, 1000, 80, 90), "100 told | 80 90 100"},
		{"79.99", inMay(7999, 10000), ""},
		{"79.5 is not rounded up", inMay(795, 1000), ""},
		{"one token below 80", inMay(799_999_999, 1_000_000_000), ""},
		{"89.99", inMay(8999, 10000, 80), ""},
		{"99.99", inMay(9999, 10000, 80, 90), ""},
		{"limit that 100 does not divide: below", inMay(2, 3), ""},
		{"limit that 100 does not divide: at", inMay(6, 7), "80 told | 80"},
		{"limit of one token", inMay(1, 1), "100 told, 90 superseded, 80 superseded | 80 90 100"},
		{"from nothing over all", inMay(1050, 1000), "100 told, 90 superseded, 80 superseded | 80 90 100"},
		{"from 80 over two", inMay(1050, 1000, 80), "100 told, 90 superseded | 80 90 100"},
		{"from nothing over two", inMay(999, 1000), "90 told, 80 superseded | 80 90"},
		{"all marked", inMay(5000, 1000, 80, 90, 100), ""},
		{"marks in any order", inMay(1000, 1000, 90, 80), "100 told | 80 90 100"},

		{"the largest numbers there are", inMay(most, most), "100 told, 90 superseded, 80 superseded | 80 90 100"},
		{"one below the largest", inMay(most-1, most, 80, 90), ""},
		{"80 of the largest, rounded up", inMay(7_378_697_629_483_820_646, most), "80 told | 80"},
		{"80 of the largest, rounded down", inMay(7_378_697_629_483_820_645, most), ""},
		{"the largest usage of one token", inMay(most, 1), "100 told, 90 superseded, 80 superseded | 80 90 100"},
		{"one token of the largest", inMay(1, most), ""},
		{"a product that 64 bits cut to something small", inMay(184_467_440_737_095_517, most), ""},

		{"no limit", inMay(5000, 0), ""},
		{"a limit below nothing", inMay(5000, -1000), ""},
		{"the lowest limit", inMay(most, math.MinInt64), ""},
		{"usage below nothing", inMay(-5000, 1000), ""},
		{"the lowest usage", inMay(math.MinInt64, most), ""},
		{"both below nothing", inMay(-5000, -1000), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, kind := range []store.Kind{store.Window, store.Full, store.First} {
				d, changed := usualRules().decide(kind, midMay, &tt.c)
				assert.Equal(t, tt.want, inWords(d, changed), kind)
			}
		})
	}
}

func TestDecideMarks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		c    store.Candidate
		want string
	}{
		{"a hair below keeps the mark", inMay(7999, 10000, 80), ""},
		{"just above one point below keeps it", inMay(7901, 10000, 80), ""},
		{"one point below clears it", inMay(7900, 10000, 80), " | "},
		{"limit raised by a hair", inMay(900, 1001, 80, 90), ""},
		{"limit raised over one mark", inMay(900, 1050, 80, 90), " | 80"},
		{"limit raised over all", inMay(1000, 10000, 80, 90, 100), " | "},
		{"limit lowered by a hair", inMay(900, 999, 80, 90), ""},
		{"limit lowered below the usage", inMay(900, 800, 80, 90), "100 told | 80 90 100"},
		{"limit taken away", inMay(900, 0, 80, 90), " | "},
		{"limit below nothing", inMay(900, -5, 80, 90), " | "},
		{"usage corrected to nothing", inMay(0, 1000, 80), " | "},
		{"usage corrected below nothing", inMay(-1, 1000, 80), " | "},
		{"a threshold that the settings have lost, reached", inMay(960, 1000, 80, 90, 95), ""},
		{"a threshold that the settings have lost, left", inMay(930, 1000, 80, 90, 95), " | 80 90"},
		{"one cleared while another is crossed", inMay(850, 1000, 95), "80 told | 80"},
		{"a lower one than the marked", inMay(950, 1000, 90), "80 superseded | 80 90"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := slices.Clone(tt.c.Marks)
			d, changed := usualRules().decide(store.Window, midMay, &tt.c)
			assert.Equal(t, tt.want, inWords(d, changed))
			assert.Equal(t, before, tt.c.Marks, "the candidate is only read")
		})
	}
}

func TestDecideReasons(t *testing.T) {
	t.Parallel()
	told := func(c store.Candidate, thresholds ...int32) store.Candidate {
		c.Told = thresholds
		return c
	}
	tests := []struct {
		name   string
		kind   store.Kind
		now    time.Time
		change func(*rules)
		c      store.Candidate
		want   string
	}{
		{"at the period's first instant", store.Window, mayBegins, nil, inMay(850, 1000), "80 told | 80"},
		{"at its last", store.Window, mayEnds.Add(-time.Microsecond), nil, inMay(850, 1000), "80 told | 80"},
		{"when it has ended", store.Window, mayEnds, nil, inMay(950, 1000), "90 period_closed, 80 period_closed | 80 90"},
		{"a full count after it has ended", store.Full, mayEnds, nil, inMay(950, 1000), " | 80 90"},
		{"the first count after it has ended", store.First, mayEnds, nil, inMay(950, 1000), " | 80 90"},
		{"before it has begun", store.Window, mayBegins.Add(-time.Microsecond), nil, inMay(950, 1000), ""},
		{"a full count before it has begun", store.Full, mayBegins.Add(-time.Microsecond), nil, inMay(950, 1000), ""},

		{
			"first start, only to be recorded", store.First, midMay, func(r *rules) { r.backfill = true },
			inMay(950, 1000), "90 backfill, 80 backfill | 80 90",
		},
		{
			"later, with the same setting", store.Window, midMay, func(r *rules) { r.backfill = true },
			inMay(950, 1000), "90 told, 80 superseded | 80 90",
		},
		{
			"a full count, with the same setting", store.Full, midMay, func(r *rules) { r.backfill = true },
			inMay(950, 1000), "90 told, 80 superseded | 80 90",
		},

		{"told under another key", store.Window, midMay, nil, told(inMay(850, 1000), 80), "80 carried_over | 80"},
		{"told a lower one under another key", store.Window, midMay, nil, told(inMay(950, 1000), 80), "90 told, 80 carried_over | 80 90"},
		{"told a higher one under another key", store.Window, midMay, nil, told(inMay(950, 1000), 90), "90 carried_over, 80 superseded | 80 90"},
		{"told one that is no threshold any more", store.Window, midMay, nil, told(inMay(850, 1000), 85), "80 superseded | 80"},
		{"told, and the period has ended", store.Window, mayEnds, nil, told(inMay(850, 1000), 80), "80 period_closed | 80"},

		{
			"a lower threshold added", store.Full, midMay, func(r *rules) { r.thresholds, r.added = []int32{50, 80, 90, 100}, []int32{50} },
			inMay(850, 1000, 80), "50 threshold_added | 50 80",
		},
		{
			"a higher threshold added", store.Full, midMay, func(r *rules) { r.thresholds, r.added = []int32{80, 85, 90, 100}, []int32{85} },
			inMay(860, 1000, 80), "85 threshold_added | 80 85",
		},
		{
			"one added while another is crossed", store.Full, midMay, func(r *rules) { r.thresholds, r.added = []int32{50, 80, 90, 100}, []int32{50} },
			inMay(850, 1000), "80 told, 50 threshold_added | 50 80",
		},
		{
			"one added and not reached", store.Full, midMay, func(r *rules) { r.thresholds, r.added = []int32{80, 90, 95, 100}, []int32{95} },
			inMay(850, 1000, 80), "",
		},
		{
			"above 100", store.Window, midMay, func(r *rules) { r.thresholds = []int32{100, 150} },
			inMay(1500, 1000, 100), "150 told | 100 150",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := usualRules()
			if tt.change != nil {
				tt.change(&r)
			}
			d, changed := r.decide(tt.kind, tt.now, &tt.c)
			assert.Equal(t, tt.want, inWords(d, changed))
		})
	}
}

func TestDecideLeavesOutWhoNeedsNothing(t *testing.T) {
	t.Parallel()
	decisions := usualRules().decideAll(store.Window, midMay, []store.Candidate{
		inMay(10, 1000), inMay(850, 1000), inMay(850, 1000, 80), inMay(10, 1000, 80),
	})
	require.Len(t, decisions, 2)
	assert.Equal(t, "80 told | 80", inWords(decisions[0], true))
	assert.Equal(t, " | ", inWords(decisions[1], true))
}

// Of a crowd, no more is written than a tick takes; the others are named.
func TestDecideNamesWhomATickDoesNotTake(t *testing.T) {
	t.Parallel()
	r := usualRules()
	r.most = 1
	crowd := []store.Candidate{inMay(850, 1000), inMay(10, 1000), inMay(850, 1000), inMay(850, 1000, 80), inMay(10, 1000, 80)}
	decisions := r.decideAll(store.Window, midMay, crowd)
	require.Len(t, decisions, 3)
	assert.Equal(t, "80 told | 80", inWords(decisions[0], true))
	for i, of := range []int{2, 4} {
		assert.Equal(t, store.Decision{UserID: crowd[of].UserID, PeriodStart: crowd[of].PeriodStart}, decisions[1+i])
	}
}

// The ids are part of what is promised: whatever is delivered again, by
// whichever version, carries the same.
func TestDecideFillsInTheAlert(t *testing.T) {
	t.Parallel()
	c := inMay(9876, 10000)
	newest := midMay.Add(-time.Second)
	c.Newest = &newest
	d, changed := usualRules().decide(store.Window, midMay, &c)
	require.True(t, changed)
	assert.Equal(t, c.UserID, d.UserID)
	assert.Equal(t, c.PeriodStart, d.PeriodStart)
	require.Len(t, d.Alerts, 2)
	assert.Equal(t, store.Alert{
		ID:             uuid.MustParse("7f30540f-21c2-567b-8aab-8a247230b0c2"),
		NotificationID: uuid.MustParse("49500e64-7070-53ce-bcb1-0c27f38dc7fd"),
		OrganizationID: c.OrganizationID,
		PeriodEnd:      mayEnds,
		Threshold:      90,
		TokenLimit:     10000,
		TokensUsed:     9876,
		PercentTenths:  987,
		Title:          "⚡ 90% of AI tokens used",
		Body: "Hello Ada Example, you have used 9,876 AI tokens this period, 98.7% of your limit of 10,000. " +
			"At this pace you will reach your limit on May 15, 2026. Your limit resets on June 1, 2026.",
		Link:   "/usage",
		Newest: &newest,
	}, d.Alerts[0])
	assert.Empty(t, d.Alerts[1].Title+d.Alerts[1].Body, "nobody reads what is not told")
}

func TestAlertIDsFollowTheUniqueKey(t *testing.T) {
	t.Parallel()
	of := func(change func(*store.Candidate)) store.Alert {
		c := inMay(850, 1000)
		change(&c)
		d, _ := usualRules().decide(store.Window, midMay, &c)
		return d.Alerts[0]
	}
	first := of(func(*store.Candidate) {})
	same := of(func(c *store.Candidate) {
		c.TokensUsed, c.FullName, c.OrganizationID = 860, "Grace Example", uuid.New()
	})
	assert.Equal(t, first.ID, same.ID)
	assert.Equal(t, first.NotificationID, same.NotificationID)

	seen := map[uuid.UUID]string{first.ID: "alert", first.NotificationID: "notification"}
	require.Len(t, seen, 2)
	for name, change := range map[string]func(*store.Candidate){
		"user":      func(c *store.Candidate) { c.UserID = uuid.New() },
		"period":    func(c *store.Candidate) { c.PeriodStart = mayBegins.AddDate(0, 0, 1) },
		"threshold": func(c *store.Candidate) { c.TokensUsed = 950 },
		"limit":     func(c *store.Candidate) { c.TokenLimit = 1001 },
	} {
		a := of(change)
		assert.Equal(t, uuid.Version(5), a.ID.Version(), name)
		assert.Equal(t, uuid.Version(5), a.NotificationID.Version(), name)
		assert.NotContains(t, seen, a.ID, name)
		assert.NotContains(t, seen, a.NotificationID, name)
		seen[a.ID], seen[a.NotificationID] = name, name
	}
}

package worker

import (
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/google/uuid"

	"tokenalert/store"
)

// Reason says why nobody was told of a crossing. It is the column
// token_limit_alerts.reason, the log field and the metric label.
type Reason string

// The reasons. A row says each of them but the last, which needs none: the row
// of the first time stands.
const (
	ReasonNone           Reason = ""                // the user is told
	ReasonSuperseded     Reason = "superseded"      // a higher threshold was told
	ReasonPeriodClosed   Reason = "period_closed"   // counted after its period ended
	ReasonThresholdAdded Reason = "threshold_added" // the settings gained it while the user stood above
	ReasonCarriedOver    Reason = "carried_over"    // told in this period under another key
	ReasonBackfill       Reason = "backfill"        // stood above it at the first start, not to be told
	ReasonMuted          Reason = "muted"           // by a policy
	ReasonNoAdmin        Reason = "no_admin"        // of a budget: the organization has no admin who is not muted
	ReasonAlreadyTold    Reason = "already_told"    // told for the same limit and period before
)

// rules are what a decision depends on besides the candidate.
type rules struct {
	thresholds []int32 // percent, ascending
	added      []int32 // those that the settings gain with this tick
	backfill   bool    // record at the first start, without telling
	words      *Words
	link       string
	zone       *time.Location
	zones      *zones   // those of policies
	channels   []string // by which alerts are delivered, besides the notification
	most       int      // decisions that are written, 0: all; of others no more is said than whom they are about
}

// decideAll is the store.Decide of a tick.
func (r rules) decideAll(kind store.Kind, now time.Time, candidates []store.Candidate) []store.Decision {
	var decisions []store.Decision
	for i := range candidates {
		c := &candidates[i]
		if r.most > 0 && len(decisions) >= r.most {
			if _, _, changed := r.crossed(now, c); changed {
				decisions = append(decisions, c.Decision())
			}
		} else if d, changed := r.decide(kind, now, c); changed {
			decisions = append(decisions, d)
		}
	}
	return decisions
}

// decide judges one user, or budget, and period. Of all thresholds that are
// crossed at once, the highest is told.
//
// Whether the same was told before for the same limit is the database's to say
// (the unique key); decide knows only the marks.
func (r rules) decide(kind store.Kind, now time.Time, c *store.Candidate) (store.Decision, bool) {
	marks, crossed, changed := r.crossed(now, c)
	if !changed {
		return store.Decision{}, false
	}
	highestMark := int32(0)
	if len(marks) > 0 {
		highestMark = marks[len(marks)-1]
	}
	decision := c.Decision()
	decision.Marks, decision.PolicySeen = append(marks, crossed...), c.Stale
	slices.Sort(decision.Marks)
	if !now.Before(c.PeriodEnd) && kind != store.Window {
		// A full count meets periods that ended long before it: nothing was
		// crossed now, and nobody is told of the past.
		return decision, true
	}
	told := false
	for _, threshold := range slices.Backward(crossed) {
		reason := r.reason(kind, now, c, threshold)
		if reason == ReasonNone && (told || threshold < highestMark || slices.ContainsFunc(c.Told, func(t int32) bool { return t > threshold })) {
			reason = ReasonSuperseded
		}
		told = told || reason == ReasonNone
		decision.Alerts = append(decision.Alerts, r.alert(now, c, threshold, reason))
	}
	return decision, true
}

// crossed are the marks that stay, ascending, and the thresholds that are newly
// crossed, and whether there is anything to decide. A threshold is crossed when
// usage stands at or above it and its mark is not set. A mark clears when usage
// falls at least one percentage point below, so that a limit raised by a hair
// repeats nothing.
func (r rules) crossed(now time.Time, c *store.Candidate) (marks, crossed []int32, changed bool) {
	if now.Before(c.PeriodStart) {
		return nil, nil, false // looked at again when it begins
	}
	marks = slices.Clone(c.Marks)
	slices.Sort(marks)
	marks = slices.DeleteFunc(marks, func(m int32) bool { return left(c.TokensUsed, c.TokenLimit, m) })
	cleared := len(marks) != len(c.Marks)
	thresholds := r.thresholds
	if c.Thresholds != nil {
		thresholds = c.Thresholds
	}
	for _, threshold := range thresholds {
		if reached(c.TokensUsed, c.TokenLimit, threshold) && !slices.Contains(marks, threshold) {
			crossed = append(crossed, threshold)
		}
	}
	return marks, crossed, len(crossed) > 0 || cleared || c.Stale != 0
}

// reason is why threshold is not told, whatever happens to the others.
func (r rules) reason(kind store.Kind, now time.Time, c *store.Candidate, threshold int32) Reason {
	switch {
	case !now.Before(c.PeriodEnd):
		return ReasonPeriodClosed
	case kind == store.First && r.backfill:
		return ReasonBackfill
	case slices.Contains(c.Told, threshold):
		return ReasonCarriedOver
	case c.Thresholds == nil && slices.Contains(r.added, threshold), slices.Contains(c.Added, threshold):
		return ReasonThresholdAdded
	case c.Muted:
		return ReasonMuted
	}
	return ReasonNone
}

func (r rules) alert(now time.Time, c *store.Candidate, threshold int32, reason Reason) store.Alert {
	subject := c.UserID.String()
	if c.OfBudget() {
		subject = "budget " + c.OrganizationID.String()
	}
	key := fmt.Sprintf("%s %d %d %d", subject, c.PeriodStart.UnixMicro(), threshold, c.TokenLimit)
	a := store.Alert{
		ID:             uuid.NewSHA1(alertSpace, []byte(key)),
		NotificationID: uuid.NewSHA1(notificationSpace, []byte(key)),
		OrganizationID: c.OrganizationID,
		PeriodEnd:      c.PeriodEnd,
		Threshold:      threshold,
		TokenLimit:     c.TokenLimit,
		TokensUsed:     c.TokensUsed,
		PercentTenths:  PercentTenths(c.TokensUsed, c.TokenLimit),
		Reason:         string(reason),
		Link:           r.link,
		Newest:         c.Newest,
	}
	switch {
	case reason != ReasonNone:
	case c.OfBudget(): // the admins are told, and nobody else
		a.ToAdmins, a.About = true, c
		a.Channels = slices.DeleteFunc(slices.Clone(r.channelsIn(c.Channels)), func(c string) bool { return c != store.ChannelWebhook })
	default:
		m := r.words.Render(Notice{
			FullName: c.FullName, Language: c.Language, OrganizationLanguage: c.OrganizationLanguage, Threshold: int(threshold), TokensUsed: c.TokensUsed,
			TokenLimit: c.TokenLimit, PeriodStart: c.PeriodStart, PeriodEnd: c.PeriodEnd, Now: now, Zone: r.zoneOf(c),
		})
		a.Title, a.Body = m.Title, m.Body
		a.Channels = r.channelsIn(c.Channels)
		if c.AdminsFrom > 0 && threshold >= c.AdminsFrom {
			a.ToAdmins, a.About = true, c
		}
	}
	return a
}

// tellAdmins writes what the admins of an organization are told of an alert, but
// for the one whose it is. Of a budget nobody but them is told, and no webhook, so
// where there are none it says so.
func (r rules) tellAdmins(now time.Time, a *store.Alert, admins []store.Admin) {
	c := a.About
	for _, admin := range admins {
		if admin.UserID == c.UserID {
			continue
		}
		n := Notice{
			Budget: c.OfBudget(), Language: admin.Language, OrganizationLanguage: c.OrganizationLanguage, Threshold: int(a.Threshold),
			TokensUsed: c.TokensUsed, TokenLimit: c.TokenLimit, PeriodStart: c.PeriodStart, PeriodEnd: c.PeriodEnd, Now: now, Zone: r.zoneOf(c),
		}
		if !n.Budget {
			n.About = &c.FullName
		}
		if admin.FullName != nil {
			n.FullName = *admin.FullName
		}
		m := r.words.Render(n)
		a.Admins = append(a.Admins, store.AdminNotice{
			ID: AdminNotificationID(a.NotificationID, admin.UserID), UserID: admin.UserID, Title: m.Title, Body: m.Body,
			// A webhook tells of the user, or the budget, and nobody.
			Channels: slices.DeleteFunc(slices.Clone(r.channelsIn(admin.Channels)), func(c string) bool { return c == store.ChannelWebhook }),
		})
	}
	if c.OfBudget() && len(a.Admins) == 0 && len(a.Channels) == 0 {
		a.Reason = string(ReasonNoAdmin)
	}
}

// AdminNotificationID is the id of what tells an admin of that which something
// else, with an id of its own, tells the user.
func AdminNotificationID(users, admin uuid.UUID) uuid.UUID { return uuid.NewSHA1(users, admin[:]) }

// zoneOf is whose dates a message names.
func (r rules) zoneOf(c *store.Candidate) *time.Location {
	if c.TimeZone == nil {
		return r.zone
	}
	return r.zones.named(*c.TimeZone, r.zone)
}

// channelsIn are the channels that are set up, as far as a policy has them; nil:
// it says nothing.
func (r rules) channelsIn(policy []string) []string {
	if policy == nil {
		return r.channels
	}
	var channels []string
	for _, channel := range r.channels {
		if slices.Contains(policy, channel) {
			channels = append(channels, channel)
		}
	}
	return channels
}

// The name spaces of the UUIDs (RFC 9562, 5.5) derived from an alert's key.
var (
	alertSpace        = uuid.MustParse("6f0d8b62-6c0a-4c5e-9d3e-0a6f2c3b7d11")
	notificationSpace = uuid.MustParse("b7b6c7f5-2c1d-4d3f-8a55-5f1e9d2a4c22")
)

// reached reports whether usage stands at or above the threshold, exactly for
// every value. Nobody reaches anything without a limit.
func reached(used, limit int64, threshold int32) bool {
	return limit > 0 && used >= 0 && compare(used, 100, limit, int64(threshold)) >= 0
}

// left reports whether usage stands at least one percentage point below the
// threshold.
func left(used, limit int64, threshold int32) bool {
	return limit <= 0 || used <= 0 || compare(used, 100, limit, int64(threshold)-1) <= 0
}

// compare compares a*x with b*y, none of which is negative, in 128 bits.
func compare(a, x, b, y int64) int {
	ah, al := bits.Mul64(uint64(a), uint64(x)) //nolint:gosec // neither is negative
	bh, bl := bits.Mul64(uint64(b), uint64(y)) //nolint:gosec // neither is negative
	switch {
	case ah > bh, ah == bh && al > bl:
		return 1
	case ah < bh, al < bl:
		return -1
	}
	return 0
}

package oracle

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
)

// told has the user told at 80 % by a worker that delivers, and returns the
// notification.
func (g *game) told(channels ...string) *Notification {
	g.use(850)
	g.tell(80, 1000, 850, "")
	g.db.Alerts[0].Channels = channels
	return &g.db.Notifications[0]
}

// arrives adds a receipt by webhook, as it should be but for what change does.
func (g *game) arrives(change ...func(*Receipt)) {
	id := g.db.Alerts[0].ID
	r := Receipt{Channel: "webhook", Key: id.String(), Alert: id, User: g.user, Accepted: true}
	for _, c := range change {
		c(&r)
	}
	g.db.Receipts = append(g.db.Receipts, r)
}

func refused(r *Receipt)   { r.Accepted = false }
func mayRepeat(r *Receipt) { r.MayRepeat = true }

func TestDeliveries(t *testing.T) {
	type counts struct{ wrong, due, received, repeated int }
	for name, c := range map[string]struct {
		play func(*game)
		want counts
	}{
		"all is right": {func(g *game) {
			n := g.told("webhook", "notification")
			g.arrives()
			g.db.Copies = []Notification{*n}
		}, counts{due: 2, received: 2}},
		"nobody delivers":         {func(g *game) { g.told() }, counts{}},
		"not received":            {func(g *game) { g.told("webhook") }, counts{wrong: 1, due: 1}},
		"received by another way": {func(g *game) { g.told("webhook", "email"); g.arrives() }, counts{wrong: 1, due: 2, received: 1}},
		"no copy":                 {func(g *game) { g.told("notification") }, counts{wrong: 1, due: 1}},
		"refused for good":        {func(g *game) { g.told("webhook"); g.arrives(refused) }, counts{wrong: 1, due: 1, received: 1}},
		"refused, and received":   {func(g *game) { g.told("webhook"); g.arrives(refused); g.arrives() }, counts{due: 1, received: 2, repeated: 1}},
		"twice for nothing":       {func(g *game) { g.told("webhook"); g.arrives(); g.arrives() }, counts{wrong: 1, due: 1, received: 2, repeated: 1}},
		"twice for a fault":       {func(g *game) { g.told("webhook"); g.arrives(mayRepeat); g.arrives() }, counts{due: 1, received: 2, repeated: 1}},
		"three times for one fault": {func(g *game) {
			g.told("webhook")
			g.arrives(mayRepeat)
			g.arrives()
			g.arrives()
		}, counts{wrong: 1, due: 1, received: 3, repeated: 2}},
		"a key of its own": {func(g *game) {
			g.told("webhook")
			g.arrives()
			g.db.Receipts[0].Key = "1"
		}, counts{wrong: 1, due: 1, received: 1}},
		"in a wrong form": {func(g *game) {
			g.told("webhook")
			g.arrives()
			g.db.Receipts[0].Fault = "it is not signed"
		}, counts{wrong: 1, due: 1, received: 1}},
		"to somebody else": {func(g *game) {
			g.told("webhook")
			g.arrives()
			g.db.Receipts[0].User = uuid.New()
		}, counts{wrong: 1, due: 1, received: 1}},
		"of an alert that did not commit": {func(g *game) {
			g.told("webhook")
			g.arrives()
			g.arrives(func(r *Receipt) { r.Alert = uuid.New(); r.Key = r.Alert.String() })
		}, counts{wrong: 1, due: 1, received: 2}},
		"of an alert that told nobody": {func(g *game) {
			g.use(850)
			g.tell(80, 1000, 850, "superseded")
			g.arrives()
		}, counts{wrong: 1, received: 1}},
		"of an alert that went with its user": {func(g *game) {
			g.told("webhook", "notification")
			g.arrives()
			g.db.Copies = g.db.Notifications
			g.change(Change{Gone: []uuid.UUID{g.user}})
			g.db.Alerts, g.db.Notifications = nil, nil
		}, counts{received: 2}},
		"a copy of nothing": {func(g *game) {
			n := g.told("notification")
			g.db.Copies = []Notification{*n, {ID: uuid.New(), User: g.user}}
		}, counts{wrong: 1, due: 1, received: 2}},
		"two copies": {func(g *game) {
			n := g.told("notification")
			g.db.Copies = []Notification{*n, *n}
		}, counts{wrong: 1, due: 1, received: 2}},
		"a copy in other words": {func(g *game) {
			n := *g.told("notification")
			n.Text = "81"
			g.db.Copies = []Notification{n}
		}, counts{wrong: 1, due: 1, received: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGame()
			c.play(g)
			v := Judge(&g.world, &g.db)
			assert.Equal(t, c.want, counts{len(v.Deliveries), v.Due, v.Received, v.Repeated}, "%v", v.Faults())
		})
	}
}

package store_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// What a crash may take away is what the rows bring back. Whoever reads an
// alert reads what a crash leaves.
func TestOnlyATickThatTellsWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(1000)
	c.settle()
	c.exec("CREATE TABLE commits (tick bigint, kind text, waits text)")
	c.exec(`CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
		BEGIN INSERT INTO public.commits VALUES (NEW.id, NEW.kind, current_setting('synchronous_commit')); RETURN NULL; END $$`)
	c.exec("CREATE CONSTRAINT TRIGGER note_commit AFTER INSERT ON tokenalert.ticks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_commit()")
	waits := func(r store.TickResult) string {
		t.Helper()
		require.True(t, r.Work())
		return ask[string](c.site, "SELECT waits FROM commits WHERE tick = $1", r.ID)
	}

	c.use(user, 100)
	assert.Equal(t, "off", waits(c.tick()), "tells nobody")
	c.use(user, 750)
	r := c.tick()
	assert.Len(t, r.Outcomes, 1)
	assert.Equal(t, "on", waits(r), "tells somebody")
	c.exec("UPDATE ai_usage_logs SET tokens_used = 1 WHERE user_id = $1", user)
	assert.Equal(t, "off", waits(c.tick()), "clears a mark")
	c.exec("TRUNCATE ai_usage_logs")
	assert.Equal(t, "on", waits(c.count(store.Full)), "is too long to do twice")
	assert.Equal(t, "on", ask[string](c.site, "SHOW synchronous_commit"))
}

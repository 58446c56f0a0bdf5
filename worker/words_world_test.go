package worker_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/worker"
)

// What users read can be written again from what their alert rows hold, as an
// e-mail does that is sent later.
func TestAMessageFollowsFromTheAlertRow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "en.warning.message"), []byte("{{percent}}. {{pace}}"), 0o600))
	w := newWorld(t)
	now := nextYear(time.May, 15).Add(12*time.Hour + 123_456*time.Microsecond)
	w.db.SetNow(t, now)
	ours, own := w.newUser(host.User{Limit: new(1000), Language: new("es")}), w.newUser(host.User{Limit: new(1000), Language: new("en-GB")})
	w.start(func(c *worker.Config) { c.Templates = dir })
	w.useAt(ours, 851, now)
	w.useAt(own, 812, now)
	w.settle()
	words, err := worker.LoadWords(dir, worker.Portuguese)
	require.NoError(t, err)
	for _, user := range []any{ours, own} {
		var n worker.Notice
		var told worker.Message
		require.NoError(t, w.owner.QueryRow(t.Context(), `SELECT u.full_name, u.language, a.alert_threshold, a.tokens_used, a.token_limit,
			a.period_start, a.period_end, a.created_at, n.title, n.message
			FROM token_limit_alerts a JOIN users u ON u.id = a.user_id JOIN notifications n ON n.id = a.notification_id WHERE u.id = $1`, user).
			Scan(&n.FullName, &n.Language, &n.Threshold, &n.TokensUsed, &n.TokenLimit, &n.PeriodStart, &n.PeriodEnd, &n.Now, &told.Title, &told.Body))
		assert.Equal(t, told, words.Render(n))
		assert.Contains(t, told.Body, "18") // of May
	}
	assert.Contains(t, w.notifications(own)[0].Message, "81.2%. At this pace you will reach your limit on May 18, ")
}

// A worker whose words are wrong does not begin.
func TestNewRefusesWrongWords(t *testing.T) {
	t.Parallel()
	c := config()
	c.Templates = filepath.Join(t.TempDir(), "nowhere")
	_, err := worker.New(c, nil, nil, worker.NewMetrics("test", "test"), nil)
	require.ErrorContains(t, err, "nowhere: cannot be read: no such file or directory")
}

package worker

import (
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDefaultConfig(t *testing.T) {
	t.Parallel()
	c := DefaultConfig()
	require.NoError(t, c.Validate())
	assert.Equal(t, []int{80, 90, 100}, c.Thresholds)
	assert.Equal(t, 30*time.Second, c.BellLease)
	assert.Equal(t, 24*time.Hour, c.TickRetention)
	assert.Regexp(t, `-\d+$`, c.WorkerName)
	assert.True(t, c.HTTPEnabled())
	for _, s := range c.Settings() {
		assert.Regexp(t, `^TOKENALERT_[A-Z_]+$`, s.Name, s.Field)
		assert.NotEmpty(t, s.Help, s.Name)
		if s.Name != "TOKENALERT_WORKER_NAME" {
			assert.Equal(t, s.Default, s.Value, s.Name)
		}
	}
}

// Every rule, broken once: the value as written, and what the one error says.
func TestLoadConfigRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 256)
	tests := []struct{ name, value, says string }{
		{"THRESHOLDS", "1,2,3,4,5,6,7,8,9,10,11", "1 to 10 percentages, not 11"},
		{"THRESHOLDS", "0,80", "=0,80 must be percentages from 1 to 1000"},
		{"THRESHOLDS", "80,1001", "=80,1001 must be percentages from 1 to 1000"},
		{"THRESHOLDS", "80,90,80", "=80,80,90 must name each percentage once, and names 80 again"},
		{"THRESHOLDS", "100,90,90", "=90,90,100 must name each percentage once, and names 90 again"},
		{"THRESHOLDS", "80,ninety", "=80,ninety must be whole numbers"},
		{"THRESHOLDS", "80,,90", "must be whole numbers"},
		{"THRESHOLDS", "79.5", "must be whole numbers"},
		{"TIME_ZONE", "", "is empty: leave it out for its default, UTC"},
		{"TIME_ZONE", "Local", "=Local must be a zone of the IANA database, such as UTC or America/Santiago: it is another zone on every machine"},
		{"TIME_ZONE", "localtime", "another zone on every machine"},
		{"TIME_ZONE", "America/Santigo", "=America/Santigo must be a zone of the IANA database, such as UTC or America/Santiago: it is unknown"},
		{"TIME_ZONE", "../UTC", "it is unknown"},
		{"LANGUAGE", "fr", "=fr must be one of es, en, pt"},
		{"LANGUAGE", "es ", `="es " must be one of es, en, pt`},
		{"TEMPLATES", "", "is empty: leave it out for its default, off"},
		{"TEMPLATES", "postgres://ann:hunter2@db/x", "=(not shown) must be the path of a directory"},
		{"TEMPLATES", "/etc/\xff", `="/etc/\xff" must be the path of a directory`},
		{"LINK_URL", long, "1 to 255 characters, as notifications.link_url is, not 256"},
		{"LINK_URL", "https://ann:hunter2@example.com/", "=(not shown) must be a URL or the path of one, without a user or password"},
		{"LINK_URL", "/a\nb", `="/a\nb" must be a URL`},
		{"SITE_URL", "", "is empty: leave it out for its default, off"},
		{"SITE_URL", "learn.example.com", "=learn.example.com must be the http or https URL of a site"},
		{"SITE_URL", "ftp://learn.example.com", "=(not shown) must be the http or https URL of a site"},
		{"SITE_URL", "https://ann:hunter2@learn.example.com", "=(not shown) must be the http or https URL of a site, without a user, password or query"},
		{"SITE_URL", "https://learn.example.com/?a=hunter2", "=(not shown) must be the http or https URL of a site, without a user, password or query"},
		{"SITE_URL", "https://learn.example.com/\xff", "=(not shown) must be the http or https URL of a site"},
		{"EMAIL", "true", "=true must be one of on, off"},
		{"EMAIL", "ann:hunter2@example.com", "=(not shown) must be one of on, off"},
		{"EMAIL_FROM", "alerts", "=alerts must be an address, such as alerts@example.com or Alerts <alerts@example.com>"},
		{"EMAIL_FROM", "smtp://ann:hunter2@mail.example.com", "=(not shown) must be an address"},
		{"EMAIL_FROM", "a@example.com, b@example.com", "=(not shown) must be an address"},
		{"EMAIL_FROM", "", "is empty: leave it out for its default, off"},
		{"WEBHOOK_ALLOW", "a,,b", "=a,,b must be names, addresses or networks with commas between them, or off"},
		{"WEBHOOK_ALLOW", "https://ann:hunter2@h/,", "=(not shown) must be names, addresses or networks"},
		{"WEBHOOK_ALLOW", "", "is empty: leave it out for its default, off"},
		{"BACKFILL", "yes", "=yes must be one of tell, record"},
		{"BELL", "true", "=true must be one of auto, on, off"},
		{"BELL_LEASE", "20s", "=20s must be more than twice TOKENALERT_BELL_RENEWAL=10s, or one late renewal silences the bell"},
		{"BELL_LEASE", "30m", "=30m must be from 2s to 5m"},
		{"BELL_LEASE", "30", "=30 must be a duration with its unit"},
		{"BELL_RENEWAL", "10ms", "=10ms must be from 1s to 1m"},
		{"LEAD_PING", "3ms", "=3ms must be from 100ms to 1m"},
		{"LEAD_TIMEOUT", "6s", "=6s must be more than twice TOKENALERT_LEAD_PING=3s, or one late ping loses the lead"},
		{"LEAD_TIMEOUT", "10m", "=10m must be from 200ms to 5m"},
		{"LEAD_RETRY", "99ms", "=99ms must be from 100ms to 10s"},
		{"LEAD_RETRY", "11s", "=11s must be from 100ms to 10s"},
		{"PAUSE_MIN", "2ns", "=2ns must be from 1ms to 10s"},
		{"PAUSE_MIN", "300ms", "=300ms must not be more than TOKENALERT_PAUSE_MAX=250ms, or no pause lies between them"},
		{"PAUSE_MAX", "1m", "=1m must be from 1ms to 10s"},
		{"TICK_TARGET", "10s", "=10s must be at least 1ms and less than 10s"},
		{"TICK_TARGET", "-1s", "=-1s must be at least 1ms and less than 10s"},
		{"TICK_RETENTION", "59m", "=59m must be at least 1h"},
		{"RECONCILE_INTERVAL", "1s", "=1s must be at least 1m, or 0 for never"},
		{"HTTP_ADDRESS", "8080", "=8080 must be host:port or :port"},
		{"HTTP_ADDRESS", ":70000", "=:70000 must be host:port"},
		{"HTTP_ADDRESS", "postgres://u:hunter2@db/x", "=(not shown) must be host:port"},
		{"LOG_LEVEL", "trace", "=trace must be one of debug, info, warn, error"},
		{"LOG_FORMAT", "text", "=text must be one of auto, json, console"},
		{"SHUTDOWN_GRACE", "0", "=0s must be at least 1s"},
		{"SHUTDOWN_GRACE", "postgres://u:hunter2@db/x", "=(not shown) must be a duration"},
		{"WORKER_NAME", strings.Repeat("a", 64), "must be 1 to 63 printable ASCII characters"},
		{"WORKER_NAME", "a\tb", `="a\tb" must be 1 to 63 printable ASCII characters`},
		{"WORKER_NAME", "", "is empty: leave it out for its default, hostname-pid"},
	}
	tried := map[string]bool{}
	for _, tt := range tests {
		name := "TOKENALERT_" + tt.name
		tried[name] = true
		t.Run(tt.name+"="+tt.value, func(t *testing.T) {
			t.Parallel()
			_, err := LoadConfig(map[string]string{name: tt.value})
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.says)
			assert.True(t, strings.HasPrefix(err.Error(), name), err)
			assert.Len(t, strings.Split(err.Error(), "\n"), 1, "one mistake, one line")
			assert.NotContains(t, err.Error(), "hunter2")
		})
	}
	for _, s := range DefaultConfig().Settings() {
		assert.True(t, tried[s.Name], "%s has a rule, and no test that breaks it", s.Name)
	}
}

func TestLoadConfigAccepts(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, value, effective string }{
		{"THRESHOLDS", " 100, 80,90 ", "80,90,100"},
		{"THRESHOLDS", "1000", "1000"},
		{"TIME_ZONE", "Pacific/Apia", "Pacific/Apia"},
		{"TEMPLATES", "/etc/tokenalert/words", "/etc/tokenalert/words"},
		{"LINK_URL", "https://example.com/" + strings.Repeat("ñ", 235), "https://example.com/" + strings.Repeat("ñ", 235)},
		{"SITE_URL", "https://learn.example.com/campus/", "https://learn.example.com/campus/"},
		{"EMAIL", "on", "on"},
		{"EMAIL_FROM", "Ñandú <alerts@example.com>", "Ñandú <alerts@example.com>"},
		{"WEBHOOK_ALLOW", "hooks.internal,10.0.0.0/8", "hooks.internal,10.0.0.0/8"},
		{"BELL_LEASE", "20001ms", "20.001s"},
		{"LEAD_TIMEOUT", "6001ms", "6.001s"},
		{"LEAD_PING", "100ms", "100ms"},
		{"PAUSE_MIN", "250ms", "250ms"},
		{"TICK_TARGET", "9999ms", "9.999s"},
		{"TICK_RETENTION", "60m", "1h"},
		{"RECONCILE_INTERVAL", "0", "0s"},
		{"RECONCILE_INTERVAL", "90m", "1h30m0s"},
		{"HTTP_ADDRESS", "", "off"},
		{"HTTP_ADDRESS", "off", "off"},
		{"HTTP_ADDRESS", "[::1]:0", "[::1]:0"},
		{"WORKER_NAME", strings.Repeat("a", 63), strings.Repeat("a", 63)},
	}
	for _, tt := range tests {
		t.Run(tt.name+"="+tt.value, func(t *testing.T) {
			t.Parallel()
			c, err := LoadConfig(map[string]string{"TOKENALERT_" + tt.name: tt.value})
			require.NoError(t, err)
			again := map[string]string{}
			for _, s := range c.Settings() {
				again[s.Name] = s.Value
			}
			assert.Equal(t, tt.effective, again["TOKENALERT_"+tt.name])
			copied, err := LoadConfig(again)
			require.NoError(t, err)
			assert.Equal(t, c, copied, "what Settings lists can be read back")
			assert.Equal(t, tt.effective != "off", c.HTTPEnabled())
		})
	}
}

func TestLoadConfigReportsAllAtOnce(t *testing.T) {
	t.Parallel()
	given := map[string]string{
		"TOKENALERT_BELL_LEASE":   "soon", // says nothing about the renewal
		"TOKENALERT_BELL_RENEWAL": "40s",
		"TOKENALERT_LEAD_PING":    "9s",
		"TOKENALERT_LANGUAGE":     "",
		"TOKENALERT_LOG_LEVEL":    "loud",
		"TOKENALERT_THRESHOLDS":   "0,0",
	}
	before := maps.Clone(given)
	_, err := LoadConfig(given)
	require.Error(t, err)
	var names []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		names = append(names, regexp.MustCompile(`^TOKENALERT_([A-Z_]+)`).FindStringSubmatch(line)[1])
	}
	assert.ElementsMatch(t, []string{"BELL_LEASE", "LEAD_TIMEOUT", "LANGUAGE", "LOG_LEVEL", "THRESHOLDS", "THRESHOLDS"}, names, err)
	assert.Equal(t, before, given)
}

// A Config that no environment was read into, as the demo and tests make it.
func TestValidateZeroConfig(t *testing.T) {
	t.Parallel()
	err := Config{ReconcileInterval: 1}.Validate()
	require.Error(t, err)
	for _, s := range DefaultConfig().Settings() {
		if s.Name != "TOKENALERT_HTTP_ADDRESS" { // empty is off
			assert.Contains(t, err.Error(), s.Name+"=")
		}
	}

	c := DefaultConfig()
	c.Thresholds = []int{90, 80}
	require.NoError(t, c.Validate(), "the order does not matter")
	c.Thresholds = []int{90, 80, 90}
	require.EqualError(t, c.Validate(), "TOKENALERT_THRESHOLDS=90,80,90 must name each percentage once, and names 90 again")
	c = DefaultConfig()
	c.LinkURL = "/\xff"
	require.ErrorContains(t, c.Validate(), "TOKENALERT_LINK_URL")
}

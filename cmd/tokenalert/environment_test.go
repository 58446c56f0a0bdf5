package main

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func printed(t *testing.T, s settings) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, s.print(&b))
	return b.String()
}

func TestLoadSettingsDatabase(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name             string
		environ          []string
		database, listen string
	}{
		{"nothing", nil, "", ""},
		{"one for both", []string{"DATABASE_URL=postgres://h/db"}, "postgres://h/db", "postgres://h/db"},
		{"keywords", []string{"DATABASE_URL=host=h dbname=db"}, "host=h dbname=db", "host=h dbname=db"},
		{"a pooler", []string{"DATABASE_URL=postgres://pool/db", "TOKENALERT_LISTEN_URL=postgres://h/db"}, "postgres://pool/db", "postgres://h/db"},
		{"empty ones", []string{"DATABASE_URL=", "TOKENALERT_LISTEN_URL="}, "", ""},
		{"only listen", []string{"TOKENALERT_LISTEN_URL=postgres://h/db"}, "", "postgres://h/db"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := loadSettings(tt.environ)
			require.NoError(t, err)
			assert.Equal(t, tt.database, s.databaseURL)
			assert.Equal(t, tt.listen, s.listenURL)
		})
	}
}

// A file holds what the variable would, and is read again when asked.
func TestLoadSettingsFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	database, listen := write("database", "postgres://ann:hunter2@pool/db\n"), write("listen", "postgres://ann:hunter2@h/db")

	s, err := loadSettings([]string{"DATABASE_URL_FILE=" + database, "TOKENALERT_LISTEN_URL_FILE=" + listen, "DATABASE_URL="})
	require.NoError(t, err)
	assert.Equal(t, "postgres://ann:hunter2@pool/db", s.databaseURL)
	assert.Equal(t, "postgres://ann:hunter2@h/db", s.listenURL)
	assert.True(t, s.inFile())
	shown := printed(t, s)
	assert.NotContains(t, shown, "hunter2")
	assert.Contains(t, shown, "# from the environment\nDATABASE_URL=postgres://ann:xxxxx@pool/db\nDATABASE_URL_FILE="+database+
		"\nTOKENALERT_LISTEN_URL=postgres://ann:xxxxx@h/db\nTOKENALERT_LISTEN_URL_FILE="+listen+"\n# defaults\n")

	write("database", "postgres://ann:hunter3@pool/db")
	now, direct, err := s.addresses()
	require.NoError(t, err)
	assert.Equal(t, "postgres://ann:hunter3@pool/db", now)
	assert.Equal(t, "postgres://ann:hunter2@h/db", direct)

	s, err = loadSettings([]string{"DATABASE_URL_FILE=" + database})
	require.NoError(t, err)
	assert.Equal(t, "postgres://ann:hunter3@pool/db", s.listenURL)
	s, err = loadSettings([]string{"DATABASE_URL=postgres://h/db"})
	require.NoError(t, err)
	assert.False(t, s.inFile())

	for _, tt := range []struct{ environ, want string }{
		{"DATABASE_URL_FILE=" + database + " DATABASE_URL=postgres://h/db", "DATABASE_URL and DATABASE_URL_FILE are both given; only one of them may be"},
		{"TOKENALERT_LISTEN_URL_FILE=" + filepath.Join(dir, "nowhere"), `TOKENALERT_LISTEN_URL_FILE names "` + filepath.Join(dir, "nowhere") + `", which cannot be read: no such file or directory`},
		{"DATABASE_URL_FILE=" + dir, `DATABASE_URL_FILE names "` + dir + `", which cannot be read: is a directory`},
		{"DATABASE_URL_FILE=" + write("empty", " \n"), `DATABASE_URL_FILE names "` + filepath.Join(dir, "empty") + `", which is empty; it is to hold a connection string`},
		{"DATABASE_URL_FILE=" + write("lines", "DATABASE_URL=hunter2\nx=hunter2\n"), `DATABASE_URL_FILE names "` + filepath.Join(dir, "lines") + `", which has more than one line; it is to hold a connection string and nothing else`},
		{"DATABASE_URL_FILE=" + write("broken", "postgres://ann:hunter2/@h/db"), "DATABASE_URL_FILE has "},
	} {
		_, err := loadSettings(strings.Fields(tt.environ))
		require.ErrorContains(t, err, tt.want)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

// Ways to deliver, each with what is missing or wrong: one line for each, which
// begins with the setting and shows no secret.
func TestLoadSettingsOfDeliveries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inFile := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	const smtp, from, hook = "TOKENALERT_SMTP_URL=smtp://ann:hunter2@h", "TOKENALERT_EMAIL_FROM=a@example.com", "TOKENALERT_WEBHOOK_URL=https://h.example/hunter2"
	signed := "TOKENALERT_WEBHOOK_SECRET=" + hookSecret
	for _, tt := range []struct {
		environ []string
		want    []string // how each line begins; none: all is well
	}{
		{[]string{"TOKENALERT_EMAIL=on"}, nil}, // organizations may have servers
		{[]string{"TOKENALERT_EMAIL=on", from}, nil},
		{[]string{"TOKENALERT_EMAIL=on", from, smtp}, nil},
		{[]string{hook, signed}, nil},
		{[]string{"TOKENALERT_WEBHOOK_URL=http://10.1.2.3:8080/x", signed, "TOKENALERT_WEBHOOK_ALLOW=10.1.0.0/16, hooks.internal"}, nil},
		{[]string{"TOKENALERT_SMTP_URL=", "TOKENALERT_WEBHOOK_URL_FILE="}, nil},
		{
			[]string{"TOKENALERT_EMAIL=on", from, "TOKENALERT_SMTP_URL_FILE=" + inFile("smtp", "smtps://ann:hunter2@h\n"), "TOKENALERT_WEBHOOK_URL_FILE=" + inFile("hook", "https://h.example/hunter2"), "TOKENALERT_WEBHOOK_SECRET_FILE=" + inFile("secret", hookSecret+" whsec_"+strings.Repeat("hunter2x", 6))},
			nil,
		},
		{[]string{smtp, from}, []string{"TOKENALERT_SMTP_URL needs TOKENALERT_EMAIL=on"}},
		{[]string{smtp, "TOKENALERT_EMAIL=on"}, []string{"TOKENALERT_SMTP_URL needs TOKENALERT_EMAIL_FROM, the sender"}},
		{[]string{smtp, "TOKENALERT_EMAIL=on", "TOKENALERT_EMAIL_FROM=hunter3@"}, []string{"TOKENALERT_EMAIL_FROM=(not shown) must be an address"}},
		{[]string{smtp + "/x", "TOKENALERT_EMAIL=on"}, []string{"TOKENALERT_SMTP_URL needs TOKENALERT_EMAIL_FROM", "TOKENALERT_SMTP_URL has something after the port: allowed is "}},
		{[]string{"TOKENALERT_SMTP_URL=mail.example.com:587", "TOKENALERT_EMAIL=on", from}, []string{"TOKENALERT_SMTP_URL begins with neither smtp:// nor smtps://: allowed is "}},
		{[]string{"TOKENALERT_SMTP_URL=smtp://ann:hunter2/@h", "TOKENALERT_EMAIL=on", from}, []string{"TOKENALERT_SMTP_URL is not a URL that can be read: allowed is "}},
		{[]string{hook}, []string{"TOKENALERT_WEBHOOK_URL needs TOKENALERT_WEBHOOK_SECRET, which signs what is posted"}},
		{[]string{signed}, []string{"TOKENALERT_WEBHOOK_SECRET needs TOKENALERT_WEBHOOK_URL"}},
		{[]string{hook, "TOKENALERT_WEBHOOK_SECRET=hunter2"}, []string{"TOKENALERT_WEBHOOK_SECRET: secret 1 of 1 (not shown) must be whsec_ and the padded base64 of 24 to 64 random bytes"}},
		{[]string{hook, signed + " " + hookSecret}, []string{"TOKENALERT_WEBHOOK_SECRET holds the same secret (not shown) twice"}},
		{[]string{"TOKENALERT_WEBHOOK_URL=hunter2", "TOKENALERT_WEBHOOK_SECRET=hunter2", "TOKENALERT_WEBHOOK_ALLOW=10.1.2.3/16"}, []string{
			"TOKENALERT_WEBHOOK_URL (not shown) must be a URL such as https://", "TOKENALERT_WEBHOOK_SECRET: secret 1 of 1", `TOKENALERT_WEBHOOK_ALLOW holds "10.1.2.3/16"; it is to hold `,
		}},
		{[]string{"TOKENALERT_WEBHOOK_URL=http://h.example/hunter2", signed}, []string{"TOKENALERT_WEBHOOK_URL is http to h.example; it must be https, or TOKENALERT_WEBHOOK_ALLOW must hold that host"}},
		{[]string{"TOKENALERT_WEBHOOK_URL=https://169.254.169.254/hunter2", signed}, []string{"TOKENALERT_WEBHOOK_URL: its address 169.254.169.254 is private or special"}},
		{[]string{"TOKENALERT_WEBHOOK_ALLOW=https://h/hunter3"}, []string{"TOKENALERT_WEBHOOK_ALLOW holds an entry (not shown) that is none of these"}},
		{[]string{"DATABASE_URL_FILE=postgres://ann:hunter2@h/db"}, []string{"DATABASE_URL_FILE names (not shown), which cannot be read: no such file or directory"}},
		{[]string{"DATABASE_URL_FILE=host=h password=hunter2"}, []string{"DATABASE_URL_FILE names (not shown), which cannot be read: no such file or directory"}},
		{[]string{hook, "TOKENALERT_WEBHOOK_SECRET_FILE=whsec_hunter2"}, []string{"TOKENALERT_WEBHOOK_SECRET_FILE names (not shown), which cannot be read: no such file or directory"}},
		{[]string{"TOKENALERT_NOTIFICATIONS_URL=hunter2"}, []string{"TOKENALERT_NOTIFICATIONS_URL is neither a postgres:// URL nor "}},
		{[]string{"TOKENALERT_NOTIFICATIONS_URL_FILE=" + inFile("broken", "hunter2")}, []string{"TOKENALERT_NOTIFICATIONS_URL_FILE is neither a postgres:// URL nor "}},
		{[]string{"TOKENALERT_WEBHOOK_URL_FILE=" + dir + "/broken", "TOKENALERT_WEBHOOK_SECRET_FILE=" + dir + "/broken"}, []string{
			"TOKENALERT_WEBHOOK_URL_FILE (not shown) must be a URL", "TOKENALERT_WEBHOOK_SECRET_FILE: secret 1 of 1 (not shown) must be ",
		}},
		{[]string{"TOKENALERT_SMTP_URL_FILE=" + dir + "/broken", smtp, "TOKENALERT_EMAIL=on", from}, []string{"TOKENALERT_SMTP_URL and TOKENALERT_SMTP_URL_FILE are both given; only one of them may be"}},
		{[]string{"TOKENALERT_WEBHOOK_SECRET_FILE=" + inFile("two", "hunter2\nhunter2"), hook}, []string{"TOKENALERT_WEBHOOK_SECRET_FILE names \"" + dir + "/two\", which has more than one line; it is to hold secrets that begin with whsec_ and nothing else"}},
		{[]string{"TOKENALERT_WEBHOOK_URL_FILE=" + inFile("nothing", "\n"), signed}, []string{"TOKENALERT_WEBHOOK_URL_FILE names \"" + dir + "/nothing\", which is empty; it is to hold a URL"}},
	} {
		t.Run(strings.ReplaceAll(strings.Join(tt.environ, " "), dir, ""), func(t *testing.T) {
			t.Parallel()
			s, err := loadSettings(tt.environ)
			assert.NotContains(t, printed(t, s), "hunter2")
			if len(tt.want) == 0 {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			lines := strings.Split(err.Error(), "\n")
			require.Len(t, lines, len(tt.want), err)
			for i, want := range tt.want {
				assert.True(t, strings.HasPrefix(lines[i], want), lines[i])
				name := regexp.MustCompile("^[A-Z_]+").FindString(lines[i])
				assert.Len(t, regexp.MustCompile(`\b`+name+`\b`).FindAllString(lines[i], -1), 1, "%s is named once in %s", name, lines[i])
			}
			assert.NotContains(t, err.Error(), "hunter")
		})
	}
}

// What stands in a file is read again for each delivery.
func TestChannelsFollowFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	write := func(content string) { require.NoError(t, os.WriteFile(path, []byte(content), 0o600)) }
	write(hookSecret)
	s, err := loadSettings([]string{"TOKENALERT_WEBHOOK_URL=https://h.example/x", "TOKENALERT_WEBHOOK_SECRET_FILE=" + path})
	require.NoError(t, err)
	c := s.channels()
	assert.Equal(t, []string{"webhook"}, c.Names())
	for _, want := range []string{hookSecret, hookSecret + " " + hookSecret} {
		write(want + "\n")
		got, err := c.WebhookSecret()
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	require.NoError(t, os.Remove(path))
	_, err = c.WebhookSecret()
	require.ErrorContains(t, err, "TOKENALERT_WEBHOOK_SECRET_FILE names")
}

// Not in parallel: pgx reads the process's own environment.
func TestLoadSettingsBrokenPGVariable(t *testing.T) {
	t.Setenv("PGPASSWORD", "hunter2")
	t.Setenv("PGPORT", "hunter2")
	_, err := loadSettings(os.Environ())
	require.EqualError(t, err, "the set of PG* variables has a port that is not a number from 1 to 65535")
	assert.NotContains(t, err.Error(), "hunter2")
}

func TestLoadSettingsUnknownName(t *testing.T) {
	t.Parallel()
	tests := []struct{ given, nearest string }{
		{"TOKENALERT_TRESHOLDS", "TOKENALERT_THRESHOLDS"},
		{"TOKENALERT_THRESHOLD", "TOKENALERT_THRESHOLDS"},
		{"TOKENALERT_TIMEZONE", "TOKENALERT_TIME_ZONE"},
		{"TOKENALERT_BELL_LAESE", "TOKENALERT_BELL_LEASE"},
		{"TOKENALERT_BEL", "TOKENALERT_BELL"},
		{"TOKENALERT_PAUSE_MAXIMUM", "TOKENALERT_PAUSE_MAX"},
		{"TOKENALERT_DATABASE_URL", "DATABASE_URL"},
		{"TOKENALERT_LISTENURL", "TOKENALERT_LISTEN_URL"},
		{"tokenalert_log_level", "TOKENALERT_LOG_LEVEL"},
		{"Tokenalert_Log_Level", "TOKENALERT_LOG_LEVEL"},
		{"TOKENALERT_WORKERNAMES", "TOKENALERT_WORKER_NAME"},
		{"TOKENALERT_LOG_LVL", "TOKENALERT_LOG_LEVEL"},
		{"TOKENALERT_", ""},
		{"TOKENALERT_X", ""},
		{"TOKENALERT_MAIL_FROM", "TOKENALERT_EMAIL_FROM"},
		{"TOKENALERT_SMTP_URI", "TOKENALERT_SMTP_URL"},
		{"TOKENALERT_WEBHOOK_SECRETS", "TOKENALERT_WEBHOOK_SECRET"},
		{"TOKENALERT_WEBHOOK_URL_FILES", "TOKENALERT_WEBHOOK_URL_FILE"},
		{"TOKENALERT_NOTIFICATION_URL", "TOKENALERT_NOTIFICATIONS_URL"},
		{"TOKENALERT_WEBHOOK", ""},
		{"TOKENALERT_REDIS_HOST", ""},
		{"TOKENALERT_SLACK_WEBHOOK_URL", ""},
		{"TOKENALERT_A_NAME_THAT_IS_LONGER_THAN_ANY_OF_OURS", ""},
	}
	for _, tt := range tests {
		t.Run(tt.given, func(t *testing.T) {
			t.Parallel()
			_, err := loadSettings([]string{tt.given + "=hunter2"})
			advice := "see `tokenalert run --help` for those that are"
			if tt.nearest != "" {
				advice = "the nearest is " + tt.nearest
			}
			require.EqualError(t, err, tt.given+" is not a setting; "+advice)
		})
	}
}

func TestLoadSettingsLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	links := []string{
		"TOKENALERT_SERVICE_HOST=10.0.0.1", "TOKENALERT_SERVICE_PORT=8080", "TOKENALERT_SERVICE_PORT_HTTP=8080",
		"TOKENALERT_PORT=tcp://10.0.0.1:8080", "TOKENALERT_PORT_8080_TCP=tcp://10.0.0.1:8080", "TOKENALERT_PORT_8080_TCP_ADDR=10.0.0.1",
		"TOKENALERT_METRICS_SERVICE_HOST=10.0.0.2", "TOKENALERT_METRICS_SERVICE_PORT=80", "TOKENALERT_METRICS_PORT=tcp://10.0.0.2:80",
	}
	_, err := loadSettings(append(links, "HOME=/", "TOKENALERTS_BELL=1", "TOKENALERT=1"))
	require.NoError(t, err)

	_, err = loadSettings([]string{"TOKENALERT_PORT=8080"})
	require.ErrorContains(t, err, "TOKENALERT_PORT is not a setting")
	_, err = loadSettings(append(links, "TOKENALERT_METRIC=1"))
	require.ErrorContains(t, err, "TOKENALERT_METRIC is not a setting")
}

func TestLoadSettingsReportsAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := loadSettings([]string{
		"DATABASE_URL=postgres://ann:hunter2/x@h/db",
		"TOKENALERT_LISTEN_URL=host=h password='hunter2",
		"TOKENALERT_BEL=on",
		"TOKENALERT_TICK_TARGET=quick",
		"TOKENALERT_LEAD_TIMEOUT=5s",
	})
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 5, err)
	for _, name := range []string{"DATABASE_URL ", "TOKENALERT_LISTEN_URL ", "TOKENALERT_BEL ", "TOKENALERT_TICK_TARGET=", "TOKENALERT_LEAD_TIMEOUT="} {
		assert.True(t, slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, name) }), name)
	}
	assert.NotContains(t, err.Error(), "hunter2")
}

// Strings that cannot be read, or that pgx reads as something else than was
// meant: each is named with a reason, and nothing of it is quoted anywhere.
func TestConnectionFault(t *testing.T) {
	t.Parallel()
	tests := []struct{ given, says string }{
		{"postgres://ann:hunter2%zz@h/db", "is not a valid URL"},
		{"postgres://ann:a hunter2@h/db", "is not a valid URL"},
		{"postgres://ann@h/db?password=a&hunter2", "is not a valid URL"},
		{"postgres://ann@h/db?password=a=hunter2", "is not a valid URL"},
		{"postgres://ann@h/hunter2%zz", "is not a valid URL"},
		{"postgres://ann:hunter2/x@h/db", "port that is not a number"},
		{"postgres://ann:hunter2", "port that is not a number"},
		{"postgres://ann:12/hunter2@h/db", "has an @ that does not end"},
		{"postgres://ann:a@hunter2@h/db", "has an @ that does not end"},
		{"postgres://ann:1/2?a=hunter2@h/db", "has an @ that does not end"},
		{"postgres://h/db?hunter2-x=1", "whose name cannot be one"},
		{"POSTGRES://ann:hunter2@h/db?sslmode=disable", "whose name cannot be one"},
		{"postgresql+asyncpg://ann:hunter2@h/db?ssl=1", "whose name cannot be one"},
		{" postgres://ann:hunter2@h/db?a=b", "whose name cannot be one"},
		{"mysql://ann:hunter2@h/db", "neither a postgres:// URL nor"},
		{"hunter2", "neither a postgres:// URL nor"},
		{"host=h password=a hunter2 user=ann", "neither a postgres:// URL nor"},
		{"host=h password='it''s hunter2'", "neither a postgres:// URL nor"},
		{"host=h password='hunter2", "neither a postgres:// URL nor"},
		{`host=h password='a\'hunter2`, "neither a postgres:// URL nor"},
		{`password='a\'hunter2' host=h port=x`, "port that is not a number"},
		{"password = hunter2 host=h port=x", "port that is not a number"},
		{"host=a,b port=1,2,3 password = hunter2", "list of ports"},
		{"host=h password = hunter2 sslrootcert=/nowhere", "asks for TLS in a way that does not work"},
		{"host=h password = hunter2 sslrootcert=/nowhere", ": no such file or directory"},
		{"host=h password = hunter2 sslmode=maybe", "asks for TLS"},
		{"host=h password = hunter2 connect_timeout=x", "invalid connect_timeout"},
		{"host=h password = hunter2 target_session_attrs=x", "invalid target_session_attrs"},
		{"host=h password = hunter2 channel_binding=x", "invalid channel_binding"},
		{"host=h password = hunter2 require_auth=x", "invalid require_auth"},
		{"host=h password = hunter2 min_protocol_version=9", "invalid min_protocol_version"},
		{"host=h password = hunter2 max_protocol_version=9", "invalid max_protocol_version"},
		{"host=h password = hunter2 sslcertmode=x", "invalid sslcertmode"},
		{"host=h password = hunter2 service=x servicefile=/nowhere", "names a service"},
		{"host=h password = hunter2 pool_max_conns=0", "invalid pool_ parameter"},
		{"host=h password = hunter2 default_query_exec_mode=x", "invalid default_query_exec_mode"},
		{"host=h password = hunter2 statement_cache_capacity=x", "invalid statement_cache_capacity"},
		{"host=h password=hunter2\x00", "neither a postgres:// URL nor"},
	}
	for _, tt := range tests {
		t.Run(tt.given, func(t *testing.T) {
			t.Parallel()
			s, err := loadSettings([]string{"DATABASE_URL=" + tt.given})
			require.ErrorContains(t, err, tt.says)
			assert.True(t, strings.HasPrefix(err.Error(), "DATABASE_URL "), err)
			assert.NotContains(t, err.Error(), "hunter2")
			var unredacted *pgconn.ParseConfigError // has the string in a field
			require.NotErrorAs(t, err, &unredacted)
			assert.NotContains(t, printed(t, s), "hunter2")
			assert.Equal(t, "xxxxx", maskConnection(tt.given))
		})
	}
}

// What to do about it depends on the form: percent-encoding is nothing but
// letters to keyword=value, and quotes are to a URL.
func TestConnectionFaultAdvisesByForm(t *testing.T) {
	t.Parallel()
	const encode, quote, begin = "percent-encoded", `password='two words', and in it write \' for ' and \\ for \`, "a URL begins with postgres://"
	tests := []struct{ given, advice string }{
		{"postgres://ann:a b@h/db", encode},
		{"postgresql://ann:1%2@h/db", encode},
		{"postgres://ann:a/b@h/db", encode},
		{"postgres://ann:a@h/db?password=a&b-c=d", encode},
		{"host=h password=a b user=ann", quote},
		{"host=h password='it''s'", quote},
		{"host=h password=a port=x", quote},
		{"host=h pass-word=a", quote},
		{"POSTGRES://ann:a@h/db?sslmode=disable", begin},
		{"postgresql+asyncpg://ann:a@h/db?ssl=1", begin},
		{"host=h sslmode=maybe", ""},
		{"postgres://h/db?connect_timeout=x", ""},
	}
	for _, tt := range tests {
		t.Run(tt.given, func(t *testing.T) {
			t.Parallel()
			fault := connectionFault(tt.given)
			require.NotEmpty(t, fault)
			for _, advice := range []string{encode, quote, begin} {
				assert.Equal(t, advice == tt.advice, strings.Contains(fault, advice), fault)
			}
		})
	}
}

func TestMaskConnection(t *testing.T) {
	t.Parallel()
	tests := []struct{ given, shown string }{
		{"", ""},
		{"postgres://h/db", "postgres://h/db"},
		{"postgres://ann@h:5433/db", "postgres://ann@h:5433/db"},
		{"postgres://ann:hunter2@h/db?sslmode=require", "postgres://ann:xxxxx@h/db?sslmode=require"},
		{"postgresql://ann:hunter2:x?#@h1:1,[::1]:2/db", "postgresql://ann:xxxxx@h1:1,[::1]:2/db"},
		{"postgres://ann:@h", "postgres://ann:xxxxx@h"},
		{"postgres://:hunter2@h", "postgres://:xxxxx@h"},
		{"postgres://ann:%68unter2@h", "postgres://ann:xxxxx@h"},
		{"postgres://h/db?user=ann&password=hunter2", "postgres://h/db?user=ann&password=xxxxx"},
		{"postgres://h/db?pass%77ord=hunter2&port=1", "postgres://h/db?pass%77ord=xxxxx&port=1"},
		{"postgres://h/db? password =hunter2", "postgres://h/db? password =xxxxx"},
		{"postgres://h/db?sslpassword=hunter2&sslkey=", "postgres://h/db?sslpassword=xxxxx&sslkey="},
		{"postgres://h?pool_max_conns=4&oauth_client_secret=hunter2", "postgres://h?pool_max_conns=4&oauth_client_secret=xxxxx"},
		{"postgres://h?options=-c%20app.password=hunter2", "xxxxx"}, // a second = is an error to libpq
		{"postgres://h?options=-c%20app.password%3Dhunter2", "postgres://h?options=xxxxx"},
		{"postgres://h?options=-c%20jit%3Doff", "postgres://h?options=-c%20jit%3Doff"},
		{"host=h password=hunter2 user=ann", "host=h password=xxxxx user=ann"},
		{"host = h\tpassword = hunter2\nuser = ann ", "host=h password=xxxxx user=ann"},
		{`password='it\'s a hunter2, "quoted" \\' host=h`, "password=xxxxx host=h"},
		{`password=a\ hunter2 host=h`, "password=xxxxx host=h"},
		{`password=hunter2\`, "password=xxxxx"},
		{"password='hunter2'host=h", "password=xxxxx host=h"},
		{"password=hunter1 password=hunter2", "password=xxxxx password=xxxxx"},
		{"host='' password=", "host='' password=xxxxx"},
		{`application_name='my \'app\\' passfile=/p`, `application_name='my \'app\\' passfile=/p`},
		{"host=h sslpassword='hunter2 x'", "host=h sslpassword=xxxxx"},
		{"host=h my.secret=hunter2", "host=h my.secret=xxxxx"},
	}
	for _, tt := range tests {
		t.Run(tt.given, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, tt.shown, maskConnection(tt.given))
		})
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	s, err := loadSettings([]string{
		"TOKENALERT_WORKER_NAME=w-1",
		"TOKENALERT_THRESHOLDS=100,50",
		"TOKENALERT_HTTP_ADDRESS=",
		"DATABASE_URL=postgres://ann:hunter2@pool/db",
		"TOKENALERT_LISTEN_URL=host=h password='hunter2 x'",
		"TOKENALERT_NOTIFICATIONS_URL=postgres://ann:hunter2@lms/db",
		"TOKENALERT_EMAIL=on", "TOKENALERT_EMAIL_FROM=Alerts <alerts@example.com>",
		"TOKENALERT_SMTP_URL=smtp://ann:hunter2@mail.example.com:2525?tls=none",
		"TOKENALERT_WEBHOOK_URL=https://ann:hunter2@hooks.example.com:8443/hunter2?k=hunter2",
		"TOKENALERT_WEBHOOK_SECRET=" + hookSecret + " whsec_" + strings.Repeat("hunter2x", 6),
		"PGPASSWORD=hunter2", "PGSSLPASSWORD=hunter2", "PGPASSFILE=/etc/pgpass", "PGUSER=", "PGAPPNAME=a\nb", "PGOPTIONS=-c my.token=hunter2", "PGDATA=/var",
	})
	require.NoError(t, err)
	assert.Equal(t, `# from the environment
DATABASE_URL=postgres://ann:xxxxx@pool/db
PGAPPNAME="a\nb"
PGOPTIONS=xxxxx
PGPASSFILE=/etc/pgpass
PGPASSWORD=xxxxx
PGSSLPASSWORD=xxxxx
TOKENALERT_LISTEN_URL=host=h password=xxxxx
TOKENALERT_NOTIFICATIONS_URL=postgres://ann:xxxxx@lms/db
TOKENALERT_SMTP_URL=smtp://mail.example.com:2525
TOKENALERT_WEBHOOK_URL=https://hooks.example.com:8443/xxxxx
TOKENALERT_WEBHOOK_SECRET=xxxxx
TOKENALERT_THRESHOLDS=50,100
TOKENALERT_EMAIL=on
TOKENALERT_EMAIL_FROM=Alerts <alerts@example.com>
TOKENALERT_HTTP_ADDRESS=off
TOKENALERT_WORKER_NAME=w-1
# defaults
TOKENALERT_TIME_ZONE=UTC
TOKENALERT_LANGUAGE=es
TOKENALERT_TEMPLATES=off
TOKENALERT_LINK_URL=/admin/token-usage
TOKENALERT_BACKFILL=tell
TOKENALERT_SITE_URL=off
TOKENALERT_WEBHOOK_ALLOW=off
TOKENALERT_BELL=auto
TOKENALERT_BELL_LEASE=30s
TOKENALERT_BELL_RENEWAL=10s
TOKENALERT_LEAD_PING=3s
TOKENALERT_LEAD_TIMEOUT=10s
TOKENALERT_LEAD_RETRY=1s
TOKENALERT_PAUSE_MIN=2ms
TOKENALERT_PAUSE_MAX=250ms
TOKENALERT_TICK_TARGET=800ms
TOKENALERT_TICK_RETENTION=24h
TOKENALERT_RECONCILE_INTERVAL=24h
TOKENALERT_LOG_LEVEL=info
TOKENALERT_LOG_FORMAT=auto
TOKENALERT_SHUTDOWN_GRACE=10s
`, printed(t, s))

	require.EqualError(t, s.print(failingWriter{}), "no space left on device")
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestSettingsHelp(t *testing.T) {
	t.Parallel()
	help := settingsHelp()
	s, err := loadSettings(nil)
	require.NoError(t, err)
	assert.Len(t, strings.Split(strings.TrimSpace(help), "\n"), len(s.all()))
	for _, row := range s.all() {
		assert.Regexp(t, `(?m)^  `+row.Name+` +`+regexp.QuoteMeta(row.Default)+` +\S`, help)
	}
	for line := range strings.SplitSeq(help, "\n") {
		assert.LessOrEqual(t, len(line), 120, line)
	}
}

// A password, well quoted, leaves no trace: whatever it is, the output is the
// same. Put in as it is, it may break the string apart, but never comes out
// in one piece. The same for the errors and for what print writes.
func FuzzMaskConnection(f *testing.F) {
	for _, seed := range []string{"hunter2", "a b", `it's "me" \`, "a@b", "1/2", "1/2?a=b", "x&y=z", "x&y", "%41", "#", ":", " ", "\\", "'", "a' host='b", "é", "[", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, password string) {
		if strings.ContainsRune(password, 0) {
			t.Skip("no environment variable holds a NUL")
		}
		quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password) + "'"
		percent := strings.ReplaceAll(url.QueryEscape(password), "+", "%20")
		for given, want := range map[string]string{
			"postgres://ann:" + percent + "@h:1/db":                 "postgres://ann:xxxxx@h:1/db",
			"postgres://h/db?user=ann&password=" + percent:          "postgres://h/db?user=ann&password=xxxxx",
			"postgres://h/db?sslpassword=" + percent + "&user=ann":  "postgres://h/db?sslpassword=xxxxx&user=ann",
			"user=ann password=" + quoted + " host=h":               "user=ann password=xxxxx host=h",
			"user=ann sslpassword = " + quoted + "password=" + "''": "user=ann sslpassword=xxxxx password=xxxxx",
		} {
			if got := maskConnection(given); got != want {
				t.Errorf("%q is shown as %q", given, got)
			}
		}

		secret := "<" + password + ">" // found in nothing else
		for _, given := range []string{
			"postgres://ann:" + secret + "@h:1/db",
			"postgres://h/db?password=" + secret,
			"postgres://h/db?password=" + secret + "&user=ann",
			"host=h password=" + secret + " user=ann",
			"host=h password='" + secret + "' user=ann",
			"password=" + secret,
			secret,
		} {
			s, err := loadSettings([]string{"DATABASE_URL=" + given, "PGPASSWORD=" + secret})
			out := printed(t, s)
			if err != nil {
				out += err.Error()
			}
			if strings.Contains(out, secret) || strings.Contains(maskConnection(given), secret) {
				t.Errorf("%q is shown in\n%s", given, out)
			}
		}
	})
}

// A file may be faulty when it is read again, and its content in no error.
func TestAConnectionStringThatIsReadAgainIsNotShown(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "url")
	require.NoError(t, os.WriteFile(file, []byte("postgres://ann:hunter2@h/db"), 0o600))
	s, err := loadSettings([]string{"TOKENALERT_NOTIFICATIONS_URL_FILE=" + file})
	require.NoError(t, err)
	for _, faulty := range []string{"hunter2", "password=two hunter2", `{"password": "hunter2"}`, "postgres://ann:hun/ter2@h/db"} {
		require.NoError(t, os.WriteFile(file, []byte(faulty), 0o600))
		url, err := s.channels().Notifications()
		require.ErrorContains(t, err, "TOKENALERT_NOTIFICATIONS_URL_FILE", faulty)
		assert.NotContains(t, err.Error(), "ter2")
		assert.Empty(t, url)
	}
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// pgVariables are the PG* variables that pgx reads, with the keyword that each
// stands for in a connection string (pgconn.ParseConfig).
var pgVariables = map[string]string{
	"PGHOST": "host", "PGPORT": "port", "PGDATABASE": "database", "PGUSER": "user",
	"PGPASSWORD": "password", "PGPASSFILE": "passfile", "PGAPPNAME": "application_name",
	"PGCONNECT_TIMEOUT": "connect_timeout", "PGSSLMODE": "sslmode", "PGSSLKEY": "sslkey",
	"PGSSLCERT": "sslcert", "PGSSLCERTMODE": "sslcertmode", "PGSSLSNI": "sslsni",
	"PGSSLROOTCERT": "sslrootcert", "PGSSLPASSWORD": "sslpassword", "PGSSLNEGOTIATION": "sslnegotiation",
	"PGTARGETSESSIONATTRS": "target_session_attrs", "PGSERVICE": "service", "PGSERVICEFILE": "servicefile",
	"PGTZ": "timezone", "PGOPTIONS": "options", "PGMINPROTOCOLVERSION": "min_protocol_version",
	"PGMAXPROTOCOLVERSION": "max_protocol_version", "PGCHANNELBINDING": "channel_binding", "PGREQUIREAUTH": "require_auth",
}

// harmless are the keywords whose values may be shown; of any other the value
// is masked. pgx passes unknown keywords on to the server, so nobody can list
// the secret ones.
var harmless = func() map[string]bool {
	set := map[string]bool{
		"dbname": true, "ssl": true, "krbsrvname": true, "krbspn": true, "search_path": true,
		"statement_timeout": true, "lock_timeout": true, "default_query_exec_mode": true,
		"statement_cache_capacity": true, "description_cache_capacity": true,
		"pool_max_conns": true, "pool_min_conns": true, "pool_min_idle_conns": true,
		"pool_max_conn_lifetime": true, "pool_max_conn_lifetime_jitter": true,
		"pool_max_conn_idle_time": true, "pool_health_check_period": true, "pool_ping_timeout": true,
	}
	for _, keyword := range pgVariables {
		set[keyword] = keyword != "password" && keyword != "sslpassword"
	}
	return set
}()

const mask = "xxxxx"

// maskConnection shows a connection string without its secrets, and nothing
// at all of one that has a fault: where its parts end is then a guess.
func maskConnection(s string) string {
	switch {
	case s == "":
		return ""
	case connectionFault(s) != "":
		return mask
	case !isURL(s):
		var shown []string
		for _, pair := range keywordValues(s) {
			shown = append(shown, pair[0]+"="+quoteKeywordValue(maskValue(pair[0], pair[1])))
		}
		return strings.Join(shown, " ")
	}
	scheme, rest, _ := strings.Cut(s, "://")
	masked := scheme + "://"
	user, rest := cutUser(rest)
	if name, _, found := strings.Cut(user, ":"); found {
		user = name + ":" + mask
	}
	if user != "" {
		masked += user + "@"
	}
	rest, query, found := strings.Cut(rest, "?")
	masked += rest
	if !found {
		return masked
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		if key != "" {
			pairs[i] = key + "=" + maskValue(decodeName(key), value)
		}
	}
	return masked + "?" + strings.Join(pairs, "&")
}

// secretive finds what options = '-c name=value' should not show.
var secretive = regexp.MustCompile(`(?i)pass|secret|token`)

func maskValue(keyword, value string) string {
	if !harmless[keyword] || keyword == "options" && secretive.MatchString(value) {
		return mask
	}
	return value
}

// faults pairs what pgx says with what we say: its own message quotes the
// connection string, or a piece of it, and hides only the passwords that it
// recognizes. (Not, for one, password='it\'s me', or a password with a space
// and no quotes.)
var faults = [][2]string{
	{"failed to parse as URL", "is not a valid URL"},
	{"failed to parse as keyword/value", "is neither a postgres:// URL nor a valid list of keyword=value"},
	{"invalid port", "has a port that is not a number from 1 to 65535"},
	{"could not match", "has a list of ports that does not fit its hosts"},
	{"failed to configure TLS", "asks for TLS in a way that does not work (sslmode, sslrootcert, sslcert, sslkey, sslpassword)"},
	{"failed to read service", "names a service that the service file does not have"},
	{"connect_timeout", "has an invalid connect_timeout"},
	{"sslcertmode", "has an invalid sslcertmode"},
	{"target_session_attrs", "has an invalid target_session_attrs"},
	{"min_protocol_version", "has an invalid min_protocol_version"},
	{"max_protocol_version", "has an invalid max_protocol_version"},
	{"channel_binding", "has an invalid channel_binding"},
	{"require_auth", "has an invalid require_auth"},
	{"_cache_capacity", "has an invalid statement_cache_capacity or description_cache_capacity"},
	{"default_query_exec_mode", "has an invalid default_query_exec_mode"},
	{"pool_", "has an invalid pool_ parameter"},
}

// spoiled are the faults that a password can be the cause of: it has
// characters that end it.
var spoiled = []string{"failed to parse as", "invalid port"}

// How a password is written that has such characters (manual, 34.1.1).
const (
	adviceURL      = ": in a password write %, /, ?, #, @, :, & and spaces percent-encoded"
	adviceKeywords = `: quote a value that has spaces, as in password='two words', and in it write \' for ' and \\ for \`
)

// connectionFault says what is wrong with a connection string in words that
// quote nothing of it, or nothing. It refuses more than pgx does: strings
// that pgx takes for something else than their author, so that a part of the
// password would turn up as a host, a database or the name of a parameter, in
// our output or in a connection error.
func connectionFault(s string) string {
	if _, err := pgxpool.ParseConfig(s); err != nil {
		text := err.Error()
		text = text[strings.LastIndex(text, "`: ")+1:]
		fault := "is not a connection string that can be read"
		if i := slices.IndexFunc(faults, func(f [2]string) bool { return strings.Contains(text, f[0]) }); i >= 0 {
			fault = faults[i][1]
		}
		if slices.ContainsFunc(spoiled, func(part string) bool { return strings.Contains(text, part) }) {
			fault += passwordAdvice(s)
		}
		if file, ok := errors.AsType[*fs.PathError](err); ok {
			fault += ": " + file.Err.Error()
		}
		return fault
	}

	var names []string
	if isURL(s) {
		_, rest, _ := strings.Cut(s, "://")
		_, rest = cutUser(rest)
		if strings.Contains(rest, "@") {
			return "has an @ that does not end the user and password: write @ as %40, / as %2F"
		}
		_, query, _ := strings.Cut(rest, "?")
		for pair := range strings.SplitSeq(query, "&") {
			if name, _, found := strings.Cut(pair, "="); found {
				names = append(names, decodeName(name))
			}
		}
	} else {
		for _, pair := range keywordValues(s) {
			names = append(names, pair[0])
		}
	}
	if !slices.ContainsFunc(names, func(name string) bool { return !parameterName.MatchString(name) }) {
		return ""
	}
	fault := "has a parameter whose name cannot be one"
	if !isURL(s) && strings.Contains(s, "://") {
		return fault + ": a URL begins with postgres:// or postgresql://"
	}
	return fault + passwordAdvice(s)
}

// connectionError is the fault of a connection string of this name, if it has one.
func connectionError(name, s string) error {
	if fault := connectionFault(s); fault != "" {
		return fmt.Errorf("%s %s", name, fault)
	}
	return nil
}

// passwordAdvice fits the form that a connection string has, and is empty for
// the PG* variables, whose values end by themselves.
func passwordAdvice(s string) string {
	switch {
	case s == "":
		return ""
	case isURL(s):
		return adviceURL
	}
	return adviceKeywords
}

var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

func isURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

// cutUser cuts user:password off what follows the scheme, where libpq and pgx
// do: at the first @, if no slash comes before it.
func cutUser(s string) (user, rest string) {
	if i := strings.IndexAny(s, "@/"); i >= 0 && s[i] == '@' {
		return s[:i], s[i+1:]
	}
	return "", s
}

// decodeName undoes the percent-encoding of a parameter's name: pass%77ord is
// password to pgx. It takes a URL that pgx can read.
func decodeName(s string) string {
	name, _ := url.PathUnescape(s)
	return strings.Trim(name, " ")
}

// keywordValues splits keyword = 'value' pairs by libpq's rules: a value ends
// at a space, or is quoted, and a backslash takes the next byte as it is. It
// takes a string that pgx can read. See the PostgreSQL manual, 34.1.1.1.
func keywordValues(s string) [][2]string {
	const spaces = " \t\n\r\v\f"
	var pairs [][2]string
	for s = strings.TrimLeft(s, spaces); s != ""; s = strings.TrimLeft(s, spaces) {
		key, rest, _ := strings.Cut(s, "=")
		rest = strings.TrimLeft(rest, spaces)
		end := spaces
		if strings.HasPrefix(rest, "'") {
			end, rest = "'", rest[1:]
		}
		var value []byte
		i := 0
		for ; i < len(rest) && strings.IndexByte(end, rest[i]) < 0; i++ {
			if rest[i] == '\\' {
				i++
			}
			if i < len(rest) {
				value = append(value, rest[i])
			}
		}
		pairs = append(pairs, [2]string{strings.Trim(key, spaces), string(value)})
		s = rest[min(i+1, len(rest)):]
	}
	return pairs
}

func quoteKeywordValue(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n\r\v\f'\\") {
		return s
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

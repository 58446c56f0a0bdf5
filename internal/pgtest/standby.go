package pgtest

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"tokenalert/internal/privatepg"
)

// Standby makes a standby of a server of the test's own, with settings as in
// StartServer. It is stopped when the test ends. It skips the test where the
// server's programs cannot make one.
func (in *Instance) Standby(t testing.TB, settings map[string]string) *Instance {
	t.Helper()
	server, err := in.server.Standby(t.Context(), settings)
	if errors.Is(err, privatepg.ErrNoBaseBackup) {
		t.Skip("SKIPPED: " + err.Error())
	}
	if err != nil {
		t.Fatal("pgtest: make a standby:", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error("pgtest:", err)
		}
	})
	return &Instance{server: server, disposable: true}
}

// Of is the database of the same name on this server, of which the database's
// own is the primary, or was.
func (in *Instance) Of(db *DB) *DB { return &DB{Name: db.Name, in: in, straight: true} }

// HostsURL connects as a role to the first of several servers that answers, or
// that parameters such as target_session_attrs=read-write ask for.
func HostsURL(t testing.TB, role, parameters string, databases ...*DB) string {
	t.Helper()
	var hosts, ports []string
	var u *url.URL
	for _, db := range databases {
		var err error
		if u, err = url.Parse(db.URLAs(role)); err != nil {
			t.Fatal("pgtest:", err)
		}
		hosts, ports = append(hosts, u.Query().Get("host")), append(ports, u.Query().Get("port"))
	}
	query, err := url.ParseQuery(parameters)
	if err != nil {
		t.Fatal("pgtest:", err)
	}
	query.Set("host", strings.Join(hosts, ","))
	query.Set("port", strings.Join(ports, ","))
	u.RawQuery = query.Encode()
	return u.String()
}

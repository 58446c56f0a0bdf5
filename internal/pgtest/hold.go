package pgtest

import (
	"context"
	"net/url"
	"sync"
	"testing"
)

// HoldTicks has every tick that tells somebody wait, with all written and
// nothing committed, until the returned function is called: a trigger of the
// host's on notifications that takes its time. It takes no lock that would run
// into the tick's lock_timeout.
func (db *DB) HoldTicks(t testing.TB) (release func()) {
	t.Helper()
	holder := connect(t, db.OwnerURL())
	for _, sql := range []string{
		`CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			WHILE NOT pg_try_advisory_xact_lock_shared(1) LOOP PERFORM pg_sleep(0.005); END LOOP;
			RETURN NULL;
		END $$`,
		"CREATE TRIGGER hold AFTER INSERT ON notifications FOR EACH STATEMENT EXECUTE FUNCTION hold()",
		"SELECT pg_advisory_lock(1)",
	} {
		if _, err := holder.Exec(t.Context(), sql); err != nil {
			t.Fatal("pgtest: hold ticks:", err)
		}
	}
	return func() {
		t.Helper()
		if err := holder.Close(t.Context()); err != nil {
			t.Fatal("pgtest: release ticks:", err)
		}
	}
}

// HoldReconcile returns a URL for Runtime over which comparisons of the totals,
// once they have their snapshot and before they touch a table, wait from hold to
// release: they find set_config in a schema of the test's before the one in
// pg_catalog. While one waits it has the advisory lock 4712, shared.
func (db *DB) HoldReconcile(t testing.TB) (held string, hold, release func()) {
	t.Helper()
	holder := connect(t, db.URL())
	t.Cleanup(func() { _ = holder.Close(context.Background()) })
	var one sync.Mutex // hold and release may be called by two goroutines
	exec := func(sql string) {
		t.Helper()
		one.Lock()
		defer one.Unlock()
		if _, err := holder.Exec(context.Background(), sql); err != nil {
			t.Error("pgtest: hold reconcile:", err)
		}
	}
	exec("CREATE SCHEMA hold")
	exec("GRANT USAGE ON SCHEMA hold TO PUBLIC")
	exec(`CREATE FUNCTION hold.set_config(name text, value text, is_local boolean) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			IF name = 'row_security' THEN
				PERFORM pg_catalog.pg_advisory_xact_lock_shared(4712);
				WHILE NOT pg_catalog.pg_try_advisory_xact_lock_shared(4711) LOOP PERFORM pg_catalog.pg_sleep(0.002); END LOOP;
			END IF;
			RETURN pg_catalog.set_config(name, value, is_local);
		END $$`)
	u, err := url.Parse(db.URLAs(Runtime))
	if err != nil {
		t.Fatal("pgtest: hold reconcile:", err)
	}
	query := u.Query()
	query.Set("search_path", "hold,pg_catalog,public")
	u.RawQuery = query.Encode()
	return u.String(), func() { exec("SELECT pg_advisory_lock(4711)") }, func() { exec("SELECT pg_advisory_unlock(4711)") }
}

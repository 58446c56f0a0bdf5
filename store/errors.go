package store

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATE codes that mean something to us (PostgreSQL manual, appendix A).
const (
	codeSerialization    = "40001"
	codeDeadlock         = "40P01"
	codeLockNotObtained  = "55P03"
	codeReadOnly         = "25006"
	codeUnique           = "23505"
	codeInvalidText      = "22P02"
	codePrivilege        = "42501"
	codeCanceled         = "57014"
	codeInvalidParameter = "22023"

	codeDuplicatePrepared = "42P05"
	codeUnknownPrepared   = "26000"
)

var (
	// ErrCollided is returned by a tick that found the chain extended by
	// another worker; nothing was written.
	ErrCollided = errors.New("another worker extended the chain of ticks")
	// ErrRewritten is returned by a tick whose table was truncated or rewritten
	// between its snapshot and its read; nothing was written. The next tick
	// must be a full count.
	ErrRewritten = errors.New("ai_usage_logs was rewritten between the tick's snapshot and its read")
	// ErrNeedsFull is returned by a window tick on an empty chain or after a
	// TRUNCATE; nothing was written. The next tick must be a full count.
	ErrNeedsFull = errors.New("a full count is needed")
	// ErrOtherZones is returned by a tick whose periods lack the zone of a policy;
	// nothing was written. They are to be worked out anew.
	ErrOtherZones = errors.New("a policy has a time zone that the periods were not worked out for")
	// ErrOtherSettings is returned by a tick that found other settings in force than it
	// was to; nothing was written. They are to be read anew, or another worker leads.
	ErrOtherSettings = errors.New("another leader has put other thresholds or another time zone in force")
	// ErrForeignChain means that the chain was written in another cluster, so
	// its transaction ids mean nothing here.
	ErrForeignChain = errors.New("the chain of ticks was written in another PostgreSQL cluster (a restored dump?); run `tokenalert migrate up`, which starts it anew and keeps what was told")
	// errSwallowed is returned where a trigger or rule of the host left out a
	// notification without a word: an alert must not say that somebody was told.
	errSwallowed = errors.New("the host's database dropped a notification silently (a trigger on notifications that returns NULL, or a rule?)")
	// ErrSchema means that the schema is missing or of another version.
	ErrSchema = errors.New("schema")
	// ErrReadOnly means that the server accepts no writes, as a standby.
	ErrReadOnly = errors.New("the server accepts no writes (a standby?)")
)

// SQLState returns the SQLSTATE of err, or "" where it has none.
func SQLState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// IsData reports whether the data of some user made the statement fail: class
// 22 (data exception), 23 (integrity constraint violation), P0 (raised by a
// trigger of the host), or a notification that one swallowed.
func IsData(err error) bool {
	if errors.Is(err, errSwallowed) {
		return true
	}
	switch code := SQLState(err); {
	case strings.HasPrefix(code, "22"), strings.HasPrefix(code, "23"), strings.HasPrefix(code, "P0"):
		return !errors.Is(err, ErrCollided)
	}
	return false
}

// Discreet returns err without what a user's row or a trigger of the host may
// have put into it: names, texts, secrets. The server's log has it in full.
func Discreet(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || !IsData(err) {
		return err
	}
	place := e.TableName
	if e.ConstraintName != "" {
		place += " (" + e.ConstraintName + ")"
	}
	if place != "" {
		place = " on " + place
	}
	return fmt.Errorf("a user's row, or a trigger of the host, made a statement fail%s (SQLSTATE %s); the server's log has the message", place, e.Code)
}

// IsTransient reports whether the same tick may succeed when tried again, on
// the same connection: a serialization failure, a lock not obtained in time, a
// deadlock in which the tick gave way.
func IsTransient(err error) bool {
	switch SQLState(err) {
	case codeSerialization, codeDeadlock, codeLockNotObtained:
		return true
	}
	return false
}

// errNoConnection is of a tick that did not begin.
var errNoConnection = errors.New("acquire connection")

// IsTimeout reports whether a tick, or a statement of it, took longer than it may.
func IsTimeout(err error) bool {
	return SQLState(err) == codeCanceled || pgconn.Timeout(err) && !errors.Is(err, errNoConnection)
}

// IsUnanswered reports whether no answer of the server came: the connection broke, or
// there was none, or it took longer than whoever asked would wait; or a pooler said so
// in its place (class 08, connection exception).
func IsUnanswered(err error) bool {
	if code := SQLState(err); err == nil || code != "" {
		return strings.HasPrefix(code, "08")
	}
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, errNoConnection) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.Timeout(err)
}

// IsRefused reports whether the server understood us and will refuse the next
// attempt as well: authentication (class 28), an unknown database (3D000),
// missing privileges (42501).
func IsRefused(err error) bool {
	code := SQLState(err)
	return strings.HasPrefix(code, "28") || code == "3D000" || code == codePrivilege
}

// tickError names the errors of a tick that its caller acts on.
func tickError(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch {
	// By the constraint's name, never by the SQLSTATE alone: a trigger of the
	// host on notifications can fail with the same.
	case e.Code == codeUnique && e.SchemaName == "tokenalert" && e.ConstraintName == "ticks_pkey":
		return fmt.Errorf("%w: %w", ErrCollided, err)
	case e.Code == codeReadOnly:
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}

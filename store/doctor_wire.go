package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"
)

// protection is what keeps others from reading a connection, or from answering
// in the server's place.
type protection int

const (
	plain      protection = iota // over a network, and anybody on the way reads it
	encrypted                    // by whoever answered: nobody looked who that is
	ofOurCA                      // the certificate is of the right authority, for whatever server
	verified                     // it is the server that was named
	thisSystem                   // a Unix socket, or the loopback address
)

// protectionOf looks at a connection as it is, not at its settings: with sslmode
// allow or prefer, the default, they leave open what becomes of it.
func protectionOf(conn *pgx.Conn) protection {
	wire := conn.PgConn().Conn()
	switch address := wire.RemoteAddr().(type) {
	case *net.UnixAddr:
		return thisSystem
	case *net.TCPAddr:
		if address.IP.IsLoopback() {
			return thisSystem
		}
	}
	secured, ok := wire.(*tls.Conn)
	switch {
	case !ok:
		return plain
	case len(secured.ConnectionState().VerifiedChains) > 0:
		return verified
	case conn.Config().TLSConfig != nil && conn.Config().TLSConfig.VerifyPeerCertificate != nil: // verify-ca, of which pgx takes care
		return ofOurCA
	}
	return encrypted
}

// examineWire looks whether the ways to the server are open to whoever stands
// between.
func examineWire(ctx context.Context, e *examination, tx pgx.Tx, x *Examined) error {
	x.Well = "it stays on this machine, or the server's certificate and name are verified"
	find := func(setting string, conn *pgx.Conn) {
		host := conn.Config().Host
		const remedy = ": add sslmode=verify-full to it, and sslrootcert with the file of the authority that signed the server's certificate, " +
			"where that is none of the public ones (manual 34.19)"
		switch protectionOf(conn) {
		case plain:
			x.find(Warning, fmt.Sprintf("the connection to %s is not encrypted: whoever stands between reads what passes, and can answer in the server's place", host),
				"have the server offer TLS (ssl = on), and ask for it in "+setting+remedy)
		case encrypted:
			x.find(Warning, fmt.Sprintf("the connection to %s is encrypted, but nobody looks who the server is (sslmode is below verify-ca): whoever stands between can answer in its place, and be given the password", host),
				"ask for it in "+setting+remedy)
		case ofOurCA:
			x.find(Note, fmt.Sprintf("the certificate of %s is verified and its name is not (sslmode=verify-ca): any server with a certificate of the same authority can answer in its place", host),
				"where that authority signs for others as well, in "+setting+": sslmode=verify-full")
		case verified, thisSystem:
		}
	}
	find("DATABASE_URL", tx.Conn())
	if e.store.direct.config.ConnString() == e.store.pool.Config().ConnConfig.ConnString() {
		return nil
	}
	direct, err := e.store.connect(ctx, appDoctor)
	if err != nil {
		return nil // of which the check of the pooler speaks
	}
	defer closeSoon(direct)
	find("TOKENALERT_LISTEN_URL", direct)
	return nil
}

// mistrusted says what to do about a server whose certificate was refused, ""
// where err is another.
func mistrusted(setting string, err error) string {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "name the server in " + setting + " as its certificate does, or give it a certificate with this name"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "name the file of the authority that signed the server's certificate, in " + setting + ": sslrootcert=…; if that is in order, somebody else answers in the server's place"
	}
	if _, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return "give the server a certificate that is valid now and for servers"
	}
	return ""
}

// advised is err with what to do, where a certificate was refused.
func advised(setting string, err error) error {
	if remedy := mistrusted(setting, err); remedy != "" {
		return fmt.Errorf("%w; %s", err, remedy)
	}
	return err
}

package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/privatepg"
	"tokenalert/store"
)

// authority signs certificates for one test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string // its certificate, for sslrootcert
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a := &authority{certificate: certificate, key: key, file: filepath.Join(t.TempDir(), "authority.pem")}
	require.NoError(t, os.WriteFile(a.file, encoded("CERTIFICATE", der), 0o600))
	return a
}

// issue returns a server's certificate and key, valid until an instant.
func (a *authority) issue(t *testing.T, until time.Time, name string, addresses ...net.IP) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: addresses,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &private.PublicKey, a.key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return encoded("CERTIFICATE", der), encoded("PRIVATE KEY", pkcs8)
}

func encoded(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// guarded is a server with TLS, which may be reached over a network by this
// machine only.
type guarded struct {
	t *testing.T
	*privatepg.Server
	dir  string // of its socket, where it may read files
	port string
}

func newGuarded(t *testing.T, addresses string) *guarded {
	t.Helper()
	server, err := privatepg.Start(t.Context(), privatepg.Options{TCP: true, Settings: map[string]string{"listen_addresses": addresses}})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), siteWithin)
		defer cancel()
		assert.NoError(t, server.Stop(ctx))
	})
	u, err := url.Parse(server.URL("postgres"))
	require.NoError(t, err)
	return &guarded{t, server, u.Query().Get("host"), u.Query().Get("port")}
}

// address is that of a database, for a role with a password.
func (g *guarded) address(host, settings string) string {
	return fmt.Sprintf("postgres://postgres:hunter2@%s/postgres?%s", net.JoinHostPort(host, g.port), settings)
}

// present has the server show a certificate, and returns when it does.
func (g *guarded) present(name string, certificate, key []byte) {
	g.t.Helper()
	about, err := os.Stat(g.dir)
	require.NoError(g.t, err)
	owner := about.Sys().(*syscall.Stat_t)
	files := []string{filepath.Join(g.dir, name+".crt"), filepath.Join(g.dir, name+".key")}
	for i, content := range [][]byte{certificate, key} {
		require.NoError(g.t, os.WriteFile(files[i], content, 0o600))
		require.NoError(g.t, os.Chown(files[i], int(owner.Uid), int(owner.Gid)))
	}
	conn, err := pgx.Connect(g.t.Context(), g.URL("postgres"))
	require.NoError(g.t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	for _, sql := range []string{
		"ALTER SYSTEM SET ssl_cert_file = '" + files[0] + "'", "ALTER SYSTEM SET ssl_key_file = '" + files[1] + "'", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()",
	} {
		_, err := conn.Exec(g.t.Context(), sql)
		require.NoError(g.t, err, sql)
	}
	block, _ := pem.Decode(certificate)
	shown := &site{t: g.t}
	shown.eventually("the server does not show its certificate", func() bool {
		config, err := pgx.ParseConfig(g.address("127.0.0.1", "sslmode=require"))
		require.NoError(g.t, err)
		var seen []byte
		config.TLSConfig.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error { seen = raw[0]; return nil }
		conn, err := pgx.ConnectConfig(g.t.Context(), config)
		if err == nil {
			_ = conn.Close(g.t.Context())
		}
		return string(seen) == string(block.Bytes)
	})
}

// TestTheServersCertificateIsVerified with the settings that the documentation
// names, and whoever connects is told what to do where it is refused.
func TestTheServersCertificateIsVerified(t *testing.T) {
	t.Parallel()
	right, wrong := newAuthority(t), newAuthority(t)
	g := newGuarded(t, "127.0.0.1")
	certificate, key := right.issue(t, time.Now().Add(time.Hour), "localhost")
	g.present("good", certificate, key)
	expired, itsKey := right.issue(t, time.Now().Add(-time.Hour), "localhost")
	full := "sslmode=verify-full&sslrootcert="
	for _, c := range []struct {
		name, host, settings string
		refused, remedy      string // parts of what is said; empty: accepted
		expired              bool
	}{
		{name: "right name, right authority", host: "localhost", settings: full + right.file},
		{name: "right authority, name not looked at", host: "127.0.0.1", settings: "sslmode=verify-ca&sslrootcert=" + right.file},
		{name: "wrong name", host: "127.0.0.1", settings: full + right.file, refused: "127.0.0.1", remedy: "name the server in DATABASE_URL as its certificate does"},
		{name: "wrong authority", host: "localhost", settings: full + wrong.file, refused: "unknown authority", remedy: "sslrootcert"},
		{name: "wrong authority, name not looked at", host: "localhost", settings: "sslmode=verify-ca&sslrootcert=" + wrong.file, refused: "unknown authority", remedy: "sslrootcert"},
		{name: "none of the public authorities", host: "localhost", settings: "sslmode=verify-full", refused: "unknown authority", remedy: "sslrootcert"},
		{name: "nobody looks", host: "127.0.0.1", settings: "sslmode=require"},
		{name: "expired", host: "localhost", settings: full + right.file, refused: "expired", remedy: "valid now", expired: true},
	} {
		if c.expired {
			g.present("expired", expired, itsKey)
		}
		st, err := store.Open(g.address(c.host, c.settings), "")
		require.NoError(t, err)
		t.Cleanup(st.Close)
		if c.refused == "" {
			_, err = st.TransactionID(t.Context())
			require.NoError(t, err, c.name)
			continue
		}
		_, err = st.Check(t.Context())
		require.ErrorContains(t, err, c.refused, c.name)
		require.ErrorContains(t, err, c.remedy, c.name)
		assert.NotContains(t, err.Error(), "hunter2", c.name)

		d := diagnose(t, g.address(c.host, c.settings), "", doctorRequest(t))
		require.Len(t, d.Checks, 1, c.name)
		finding := d.Checks[0].Findings[0]
		assert.Equal(t, store.Broken, finding.Severity, c.name)
		assert.Contains(t, finding.Says, c.refused, c.name)
		assert.Contains(t, finding.Remedy, c.remedy, c.name)
		assert.NotContains(t, fmt.Sprintf("%+v", d), "hunter2", c.name)
	}
}

// TestTheDoctorFindsAnUnverifiedServer that is not on this machine.
func TestTheDoctorFindsAnUnverifiedServer(t *testing.T) {
	t.Parallel()
	here := networkAddress(t)
	g := newGuarded(t, "127.0.0.1,"+here.String())
	super, err := pgx.Connect(t.Context(), g.URL("postgres"))
	require.NoError(t, err)
	defer func() { _ = super.Close(context.Background()) }()
	// Nobody else gets in by that address.
	_, err = super.Exec(t.Context(), fmt.Sprintf(`COPY (SELECT unnest(ARRAY['local all all trust', 'host all all 127.0.0.1/32 trust', 'host all all %s/32 trust']))
		TO '%s'`, here, strings.TrimSpace(setting(t, super, "hba_file"))))
	require.NoError(t, err)
	ca := newAuthority(t)
	certificate, key := ca.issue(t, time.Now().Add(time.Hour), "localhost", here)
	g.present("shown", certificate, key)
	for _, c := range []struct {
		host, settings string
		severity       store.Severity // "": all is well
		says           string
	}{
		{here.String(), "sslmode=disable", store.Warning, "is not encrypted"},
		{here.String(), "", store.Warning, "nobody looks who the server is"}, // prefer
		{here.String(), "sslmode=require", store.Warning, "nobody looks who the server is"},
		{here.String(), "sslmode=require&sslrootcert=" + ca.file, store.Note, "its name is not"}, // as verify-ca
		{here.String(), "sslmode=verify-ca&sslrootcert=" + ca.file, store.Note, "its name is not"},
		{here.String(), "sslmode=verify-full&sslrootcert=" + ca.file, "", ""},
		{"127.0.0.1", "sslmode=disable", "", ""},
	} {
		found := examined(t, diagnose(t, g.address(c.host, c.settings), "", doctorRequest(t)), "encryption").Findings
		if c.severity == "" {
			assert.Empty(t, found, "%s %s", c.host, c.settings)
			continue
		}
		require.Len(t, found, 1, "%s %s", c.host, c.settings)
		assert.Equal(t, c.severity, found[0].Severity, "%s %s", c.host, c.settings)
		assert.Contains(t, found[0].Says, c.says, "%s %s", c.host, c.settings)
		assert.Contains(t, found[0].Remedy, "sslmode=verify-full")
		assert.NotContains(t, fmt.Sprintf("%+v", found), "hunter2")
	}
	socket := examined(t, diagnose(t, g.URL("postgres"), g.address(here.String(), "sslmode=require"), doctorRequest(t)), "encryption").Findings
	require.Len(t, socket, 1, "the other way to the server is looked at as well")
	assert.Contains(t, socket[0].Remedy, "TOKENALERT_LISTEN_URL")
	same := examined(t, diagnose(t, g.address(here.String(), "sslmode=verify-full&sslrootcert="+ca.file), g.address(here.String(), "sslmode=disable"),
		doctorRequest(t)), "encryption").Findings
	require.Len(t, same, 1, "also where it is to the same host")
	assert.Contains(t, same[0].Remedy, "TOKENALERT_LISTEN_URL")
}

func setting(t *testing.T, conn *pgx.Conn, name string) (value string) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&value))
	return value
}

// networkAddress is one of this machine by which a network reaches it.
func networkAddress(t *testing.T) net.IP {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP
		}
	}
	t.Skip("this machine has no address on a network")
	return nil
}

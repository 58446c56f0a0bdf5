package email

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// site is a mail server on loopback. What it takes in comes out of received.
type site struct {
	Server
	received chan received
}

type received struct {
	from, to string
	utf8     bool
	secure   bool
	user     string
	raw      string
}

// conduct is how a site behaves; each func may be nil.
type conduct struct {
	tls        TLS    // the zero value offers STARTTLS
	noStartTLS bool   // ... or does not, though the client wants it
	certName   string // whom its certificate is for; 127.0.0.1 by default
	mechanisms []string
	utf8       bool
	mail       func(from string) error
	rcpt       func(to string) error
	data       func() error
}

// startSite runs a server until the test ends.
func startSite(t *testing.T, c conduct) *site {
	t.Helper()
	certificate, pool := certify(t, c.certName)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &site{received: make(chan received, 10)}
	s.Server = Server{Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, From: sampleFrom, TLS: c.tls, RootCAs: pool}

	server := smtp.NewServer(smtp.BackendFunc(func(conn *smtp.Conn) (smtp.Session, error) {
		return &session{site: s, conduct: c, conn: conn}, nil
	}))
	server.Domain = "mail.example"
	server.AllowInsecureAuth = c.tls == None
	server.EnableSMTPUTF8 = c.utf8
	server.ErrorLog = log.New(io.Discard, "", 0)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	switch {
	case c.tls == Implicit:
		listener = tls.NewListener(listener, config)
	case c.tls == StartTLS && !c.noStartTLS:
		server.TLSConfig = config
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // an error is the listener's end
	}()
	t.Cleanup(func() {
		_ = server.Close()
		_ = listener.Close() // which the server may not know yet
		<-ended
	})
	return s
}

// none fails the test if the server has taken anything in.
func (s *site) none(t *testing.T) {
	t.Helper()
	select {
	case r := <-s.received:
		t.Fatalf("it was delivered: %s", r.raw)
	default:
	}
}

type session struct {
	site *site
	conduct
	conn *smtp.Conn
	got  received
}

func (s *session) Reset()        { s.got = received{user: s.got.user} }
func (s *session) Logout() error { return nil }

func (s *session) AuthMechanisms() []string { return s.mechanisms }

const (
	rightUser     = "ana@platform.example"
	rightPassword = "hunter2 ñ:%"
)

func (s *session) Auth(mechanism string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != rightUser || password != rightPassword {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no such account: " + user + " " + password}
		}
		s.got.user = user
		return nil
	}
	if mechanism == "LOGIN" {
		return &loginServer{check: check}, nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
}

// loginServer is the other side of LOGIN: it asks for the one, then for the other.
type loginServer struct {
	asked int
	user  string
	check func(user, password string) error
}

func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	l.asked++
	switch l.asked {
	case 1:
		return []byte("Username:"), false, nil
	case 2:
		l.user = string(response)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.user, string(response))
}

func (s *session) Mail(from string, options *smtp.MailOptions) error {
	s.got.from, s.got.utf8 = from, options.UTF8
	_, s.got.secure = s.conn.TLSConnectionState()
	if s.mail != nil {
		return s.mail(from)
	}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.got.to = to
	if s.rcpt != nil {
		return s.rcpt(to)
	}
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.data != nil {
		if err := s.data(); err != nil {
			return err
		}
	}
	s.got.raw = string(raw)
	s.site.received <- s.got
	return nil
}

// certify makes a certificate for name, or for 127.0.0.1, and the pool that
// trusts it.
func certify(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if name == "" {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// script is a server that plays one conversation with each connection, for
// what a server that keeps to the protocol does not do. It speaks no TLS.
func script(t *testing.T, play func(*line)) Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				play(&line{conn, bufio.NewReader(conn)})
				_ = conn.Close()
			}
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return Server{Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, From: sampleFrom, TLS: None}
}

type line struct {
	net.Conn
	in *bufio.Reader
}

func (l *line) say(text string) { _, _ = io.WriteString(l, text+"\r\n") }

// hear waits for a command, and returns it or the empty string at the end.
func (l *line) hear() string {
	command, _ := l.in.ReadString('\n')
	return strings.TrimSpace(command)
}

// until answers every command as if all were well, up to the one that begins
// with last, which it leaves unanswered.
func (l *line) until(last string) {
	l.say("220 mail.example")
	for {
		command := l.hear()
		switch {
		case command == "", strings.HasPrefix(command, last):
			return
		case command == "DATA":
			l.say("354 go on")
		default:
			l.say("250 2.0.0 fine")
		}
	}
}

// message reads what follows DATA, octet for octet, up to the final dot.
func (l *line) message() string {
	var raw strings.Builder
	for !strings.HasSuffix(raw.String(), "\r\n.\r\n") {
		b, err := l.in.ReadByte()
		if err != nil {
			break
		}
		raw.WriteByte(b)
	}
	return raw.String()
}

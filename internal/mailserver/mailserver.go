package mailserver

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// TLS is how a server speaks TLS.
type TLS int

// StartTLS is offered on the plain connection, Implicit is TLS from the first
// byte, and None is no TLS at all.
const (
	StartTLS TLS = iota
	Implicit
	None
)

// Conduct is how a server behaves; the zero value takes every message in. A
// func may be nil. What it returns is the server's answer: an error of Refusal,
// or ErrHang, or ErrHangUp.
type Conduct struct {
	TLS        TLS
	CertName   string   // whom its certificate is for; 127.0.0.1 by default
	Mechanisms []string // of AUTH; none: whoever comes may send
	User       string   // who may log in
	Password   string
	UTF8       bool // whether it offers SMTPUTF8

	Mail func(from string) error
	Rcpt func(to string) error
	Data func() error
}

// Message is one that was taken in.
type Message struct {
	From, To string // of the envelope
	UTF8     bool   // whether SMTPUTF8 was asked for
	Secure   bool   // whether it came through TLS
	User     string // who had logged in
	Raw      string
}

// Server is a server that runs until its test ends.
type Server struct {
	Host string
	Port int
	// Pool trusts the certificate, and PEM is the certificate.
	Pool *x509.CertPool
	PEM  []byte

	conduct Conduct
	ended   chan struct{} // closed when it stops, which ends what hangs
	mu      sync.Mutex
	taken   []Message
	next    int           // of taken, what Next returns
	arrived chan struct{} // one token a message
}

const (
	// within bounds how long Next waits. Only a test that fails waits so long.
	within = 30 * time.Second
	// queued is more than any test sends.
	queued = 1000
)

// Start runs a server until the test ends.
func Start(t testing.TB, c Conduct) *Server {
	t.Helper()
	certificate, leaf, certPEM, err := certify(c.CertName)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &Server{
		Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, Pool: x509.NewCertPool(), PEM: certPEM,
		conduct: c, ended: make(chan struct{}), arrived: make(chan struct{}, queued),
	}
	s.Pool.AddCert(leaf)

	server := smtp.NewServer(smtp.BackendFunc(func(conn *smtp.Conn) (smtp.Session, error) {
		return &session{Server: s, conn: conn}, nil
	}))
	server.Domain = "mail.example"
	server.AllowInsecureAuth = c.TLS == None
	server.EnableSMTPUTF8 = c.UTF8
	server.ErrorLog = log.New(io.Discard, "", 0)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	switch c.TLS {
	case Implicit:
		listener = tls.NewListener(listener, config)
	case StartTLS:
		server.TLSConfig = config
	case None:
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // an error is the listener's end
	}()
	t.Cleanup(func() {
		close(s.ended)
		_ = server.Close()
		_ = listener.Close() // which the server may not know yet
		<-served
	})
	return s
}

// Address is host:port.
func (s *Server) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Next waits for a message that has not been returned yet.
func (s *Server) Next(t testing.TB) Message {
	t.Helper()
	select {
	case <-s.arrived:
	case <-time.After(within):
		require.FailNow(t, "no message comes")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return s.taken[s.next-1]
}

// Messages are all that were taken in so far, in their order.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.taken...)
}

func (s *Server) take(m Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = append(s.taken, m)
	s.arrived <- struct{}{}
}

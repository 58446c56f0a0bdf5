package email

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/mail"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"
)

// sendLimit bounds a Send whose context does not end sooner.
const sendLimit = 30 * time.Second

// quitLimit is how long a server may take to say goodbye.
const quitLimit = time.Second

// answersLimit bounds what a server may say in all, in octets. The client below
// collects an answer, however long, and so would the memory of the process that
// counts.
const answersLimit = 1 << 20

var errTalks = errors.New("the server says more than any has to")

// bounded is a connection of which no more than left octets are read.
type bounded struct {
	net.Conn
	left int
}

func (c *bounded) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errTalks
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// Send hands c to s over a connection of its own. Permanent tells of an error
// whether there is any use in trying again.
func Send(ctx context.Context, s Server, c Content) error {
	if err := s.Validate(); err != nil {
		return &failure{at: settings, cause: err}
	}
	from, err := parseFrom(s.From)
	if err != nil {
		return &failure{at: settings, cause: err}
	}
	to, err := c.recipient()
	if err != nil {
		return &failure{at: composing, cause: err, permanent: true}
	}
	raw, err := c.write(from, to)
	if err != nil {
		return &failure{at: composing, cause: err, permanent: true}
	}

	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	var dialer net.Dialer
	dialed, err := dialer.DialContext(ctx, "tcp", s.address())
	if err != nil {
		return failed(ctx, connecting, err)
	}
	conn := &bounded{dialed, answersLimit}
	defer func() { _ = conn.Close() }()
	// The protocol's client takes no context. Whatever waits for the connection
	// is woken by a deadline that has passed.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if at, err := s.converse(ctx, conn, from, to, raw); err != nil {
		local, _, _ := strings.Cut(to.Address, "@")
		return failed(ctx, at, err, local, s.Username, s.Password)
	}
	return nil
}

// converse goes through the protocol by hand, with the client below go-mail's
// own: that one's errors hide what the server answered, its connection is left
// open where a step before the first message fails, and a server that hangs up
// after it took the message makes it report a failure. It returns how far it
// came.
func (s Server) converse(ctx context.Context, conn net.Conn, from, to *mail.Address, raw []byte) (step, error) {
	config := &tls.Config{ServerName: s.Host, RootCAs: s.RootCAs, MinVersion: tls.VersionTLS12}
	plain := conn
	if s.TLS == Implicit {
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return securing, err
		}
		conn = secure
	}
	client, err := smtp.NewClient(conn, s.Host)
	if err != nil {
		return greeting, err
	}
	at, err := s.transmit(client, config, from, to, raw)
	// Only between two commands is QUIT a command; in the midst of a message it
	// would end it. What the server answers no longer matters.
	if _, answered := errors.AsType[*textproto.Error](err); (err == nil || answered) && ctx.Err() == nil {
		_ = plain.SetDeadline(time.Now().Add(quitLimit))
		_ = client.Quit()
	}
	return at, err
}

func (s Server) transmit(client *smtp.Client, config *tls.Config, from, to *mail.Address, raw []byte) (step, error) {
	if err := client.Hello(domain(from)); err != nil {
		return greeting, err
	}
	if s.TLS == StartTLS {
		if offered, _ := client.Extension("STARTTLS"); !offered {
			return securing, errors.New("the server offers no STARTTLS, which is required; nothing was sent")
		}
		if err := client.StartTLS(config); err != nil {
			return securing, err
		}
	}
	if s.Username != "" {
		auth, err := s.auth(client)
		if err != nil {
			return login, err
		}
		if err := client.Auth(auth); err != nil {
			return login, err
		}
	}

	// A message that asks for SMTPUTF8 without need goes no further than to the
	// first server that has not got it (RFC 6531, 3.2).
	client.SkipSMTPUTF8(ascii(from.Address) && ascii(to.Address))
	if offered, _ := client.Extension("SMTPUTF8"); !offered && !ascii(to.Address) {
		return recipient, errNoUTF8
	}
	if err := client.Mail(envelope(from)); err != nil {
		return sender, err
	}
	if err := client.Rcpt(envelope(to)); err != nil {
		return recipient, err
	}
	data, err := client.Data()
	if err != nil {
		return content, err
	}
	if _, err := data.Write(raw); err != nil {
		return content, err
	}
	return confirmation, data.Close()
}

// envelope is an address as MAIL and RCPT take it.
func envelope(a *mail.Address) string { return (&mail.Address{Address: a.Address}).String() }

// auth chooses how to log in: within TLS what servers have tried most, without
// it what does not show the password to whoever only listens, if offered.
func (s Server) auth(client *smtp.Client) (smtp.Auth, error) {
	unprotected := s.TLS == None
	ways := []struct {
		name string
		auth smtp.Auth
	}{
		{"PLAIN", smtp.PlainAuth("", s.Username, s.Password, s.Host, unprotected)},
		{"LOGIN", smtp.LoginAuth(s.Username, s.Password, s.Host, unprotected)},
		{"CRAM-MD5", smtp.CRAMMD5Auth(s.Username, s.Password)},
		{"SCRAM-SHA-256", smtp.ScramSHA256Auth(s.Username, s.Password)},
	}
	if unprotected {
		slices.Reverse(ways)
	}
	_, offered := client.Extension("AUTH")
	names := strings.Fields(strings.ToUpper(offered))
	for _, way := range ways {
		if slices.Contains(names, way.name) {
			return way.auth, nil
		}
	}
	return nil, errors.New("the server offers none of PLAIN, LOGIN, CRAM-MD5 and SCRAM-SHA-256")
}

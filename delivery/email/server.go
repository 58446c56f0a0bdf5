package email

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"strconv"
	"strings"
)

// TLS is how the connection to a server is kept private.
type TLS int

// None is for a relay on the same machine or network. It sends the password,
// where there is one, for all on the way to read: the one case in which that
// happens, and only where somebody asked for it.
const (
	StartTLS TLS = iota // asked for on the plain connection, and required (RFC 3207)
	Implicit            // from the first byte (RFC 8314, 3.3)
	None
)

// The ports of message submission (RFC 6409, 3.1; RFC 8314, 3.3).
const (
	portStartTLS = 587
	portImplicit = 465
)

// Server is one that takes messages in, and who they are from.
type Server struct {
	Host     string
	Port     int
	Username string `json:"-"` // empty: no login
	Password string `json:"-"`
	From     string // an address with or without a name, as in "Alerts <alerts@example.com>"
	TLS      TLS
	// RootCAs are whose certificates are trusted; nil is the system's.
	RootCAs *x509.CertPool `json:"-"`
}

// String names the server without account and password.
func (s Server) String() string {
	scheme, query := "smtp", ""
	switch s.TLS {
	case Implicit:
		scheme = "smtps"
	case None:
		query = "?tls=none"
	}
	return scheme + "://" + s.address() + query
}

// GoString keeps %#v from showing what String does not.
func (s Server) GoString() string { return "email.Server(" + s.String() + ")" }

func (s Server) address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// StartTLSOr is how the columns of the host say it: one flag beside the port.
// On 465 a server speaks TLS from the first byte, whatever the flag says.
func StartTLSOr(port int, starttls bool) TLS {
	switch {
	case port == portImplicit:
		return Implicit
	case starttls:
		return StartTLS
	}
	return None
}

// Validate says what is wrong with s, and quotes nothing of it but the port.
func (s Server) Validate() error {
	switch {
	case s.Host == "" || strings.ContainsFunc(s.Host, notInHost):
		return errors.New("the server's host is not a name or an IP address")
	case s.Port < 1 || s.Port > 65535:
		return fmt.Errorf("the server's port %d is not from 1 to 65535", s.Port)
	case s.Password != "" && s.Username == "":
		return errors.New("there is a password and no user")
	case s.TLS < StartTLS || s.TLS > None:
		return fmt.Errorf("TLS %d is none of StartTLS, Implicit and None", s.TLS)
	}
	_, err := parseFrom(s.From)
	return err
}

func notInHost(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`/@?#"\`, r) }

func parseFrom(from string) (*mail.Address, error) {
	address, err := mail.ParseAddress(from)
	if err != nil {
		// net/mail quotes what it was given.
		return nil, errors.New(`the sender is not an address: allowed is alerts@example.com or "Alerts <alerts@example.com>"`)
	}
	address.Name = oneLine(address.Name, maxName)
	return address, nil
}

// ParseURL reads the settings TOKENALERT_SMTP_URL and TOKENALERT_EMAIL_FROM.
// Its errors quote no part of the URL: where a password that is not
// percent-encoded ends, and another part begins, is a guess.
func ParseURL(raw, from string) (Server, error) {
	s, err := parseURL(raw)
	if err != nil {
		return Server{}, fmt.Errorf("TOKENALERT_SMTP_URL %w: allowed is smtp://user:password@host:587, smtps://user:password@host:465, or either without user and password; smtp:// takes ?tls=none; in a password write %%, /, ?, #, @, : and spaces percent-encoded", err)
	}
	if _, err := parseFrom(from); err != nil {
		return Server{}, fmt.Errorf("TOKENALERT_EMAIL_FROM: %w", err)
	}
	s.From = from
	return s, nil
}

func parseURL(raw string) (Server, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return Server{}, errors.New("is not a URL that can be read") // url.Error quotes it
	}
	s := Server{Host: u.Hostname(), Username: u.User.Username()}
	s.Password, _ = u.User.Password()
	switch u.Scheme {
	case "smtp":
		s.TLS, s.Port = StartTLS, portStartTLS
	case "smtps":
		s.TLS, s.Port = Implicit, portImplicit
	default:
		return Server{}, errors.New("begins with neither smtp:// nor smtps://")
	}

	query, err := url.ParseQuery(u.RawQuery)
	switch {
	case u.Opaque != "" || s.Host == "" || strings.ContainsFunc(s.Host, notInHost):
		return Server{}, errors.New("has no host")
	case strings.Trim(u.Path, "/") != "" || u.Fragment != "":
		return Server{}, errors.New("has something after the port")
	case s.Username == "" && s.Password != "":
		return Server{}, errors.New("has a password and no user")
	case err != nil || len(query) > 1 || len(query) == 1 && len(query["tls"]) != 1:
		return Server{}, errors.New("has a parameter other than tls")
	case len(query) == 1 && query.Get("tls") != "none":
		return Server{}, errors.New("has a tls other than none")
	case len(query) == 1 && s.TLS == Implicit:
		return Server{}, errors.New("has tls=none beside smtps://")
	case len(query) == 1:
		s.TLS = None
	}
	if u.Port() != "" {
		if s.Port, err = strconv.Atoi(u.Port()); err != nil || s.Port < 1 || s.Port > 65535 {
			return Server{}, errors.New("has a port that is not from 1 to 65535")
		}
	}
	return s, nil
}

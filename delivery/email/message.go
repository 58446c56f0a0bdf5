package email

import (
	"bytes"
	"errors"
	"net/mail"
	"regexp"
	"strings"

	gomail "github.com/wneessen/go-mail"
)

// idText is what may stand before the @ of a Message-ID: a dot-atom without
// the characters that somebody would have to escape (RFC 5322, 3.6.4).
var idText = regexp.MustCompile(`^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$`)

// recipient is where c goes. The address is not quoted in the error, which
// net/mail would do.
func (c Content) recipient() (*mail.Address, error) {
	to, err := mail.ParseAddress(c.To)
	if err != nil {
		return nil, errors.New("is not an e-mail address")
	}
	return &mail.Address{Name: oneLine(c.ToName, maxName), Address: to.Address}, nil
}

// write makes the message as it goes over the wire, but for the dots that the
// protocol adds. Both parts are quoted-printable: lines of 76 octets of ASCII,
// no CR or LF but as CRLF, whatever the texts hold.
func (c Content) write(from, to *mail.Address) ([]byte, error) {
	if !idText.MatchString(c.ID) {
		return nil, errors.New("the alert's id is not letters, digits, dots and hyphens")
	}
	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	m.FromMailAddress(from)
	m.ToMailAddress(to)
	m.Subject(oneLine(c.Subject, maxSubject))
	m.SetDate()
	m.SetMessageIDWithValue(c.ID + "@" + domain(from))
	// No auto-reply and no notice of absence is wanted: RFC 3834, 5, and for
	// Exchange, which reads only its own header.
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader("X-Auto-Response-Suppress", "OOF, AutoReply")
	if linkTexts[c.Language] != "" {
		m.SetGenHeader("Content-Language", c.Language)
	}
	switch {
	case c.HTML == "":
		m.SetBodyString(gomail.TypeTextPlain, lines(c.Text))
	case c.Text == "":
		m.SetBodyString(gomail.TypeTextHTML, lines(c.HTML))
	default: // the richer part comes last (RFC 2046, 5.1.4)
		m.SetBodyString(gomail.TypeTextPlain, lines(c.Text))
		m.AddAlternativeString(gomail.TypeTextHTML, lines(c.HTML))
	}
	var raw bytes.Buffer
	if _, err := m.WriteTo(&raw); err != nil {
		return nil, err
	}
	return raw.Bytes(), nil
}

// domain is the sender's, for the Message-ID and to introduce ourselves with:
// the name of a machine or a pod is nobody's business, and is not fully
// qualified, which some servers insist on.
func domain(from *mail.Address) string {
	name := from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	if !ascii(name) {
		return "localhost"
	}
	return name
}

func ascii(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 }) }

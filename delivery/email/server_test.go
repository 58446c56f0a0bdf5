package email

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const sampleFrom = "Alerts <alerts@platform.example>"

func TestParseURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]Server{
		"smtp://mail.example.com":                           {Host: "mail.example.com", Port: 587},
		"SMTP://mail.example.com/":                          {Host: "mail.example.com", Port: 587},
		"smtps://mail.example.com":                          {Host: "mail.example.com", Port: 465, TLS: Implicit},
		"smtp://ana:pw@mail.example.com:2525":               {Host: "mail.example.com", Port: 2525, Username: "ana", Password: "pw"},
		"smtp://ana%40example.com:p%2Fw%3A%25@mail.example": {Host: "mail.example", Port: 587, Username: "ana@example.com", Password: "p/w:%"},
		"smtp://relay:25?tls=none":                          {Host: "relay", Port: 25, TLS: None},
		"smtps://ana@[2001:db8::1]:465":                     {Host: "2001:db8::1", Port: 465, Username: "ana", TLS: Implicit},
	} {
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			want.From = sampleFrom
			s, err := ParseURL(raw, sampleFrom)
			require.NoError(t, err)
			require.Equal(t, want, s)
			require.NoError(t, s.Validate())
			// What String shows can be read back, but for the account.
			again, err := ParseURL(s.String(), sampleFrom)
			require.NoError(t, err)
			want.Username, want.Password = "", ""
			require.Equal(t, want, again)
		})
	}
}

func TestParseURLRefuses(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"":                                           "begins with neither smtp:// nor smtps://",
		"hunter2.example":                            "begins with neither smtp:// nor smtps://",
		"http://ana:hunter2@mail.example":            "begins with neither smtp:// nor smtps://",
		"smtp:hunter2":                               "has no host",
		"smtp://":                                    "has no host",
		"smtp://ana:hunter2@":                        "has no host",
		"smtp://:hunter2@mail.example":               "has a password and no user",
		"smtp://ana:hunter2%@mail.example":           "is not a URL that can be read",
		"smtp://ana:hunter2/x@mail.example":          "is not a URL that can be read",
		"smtp://ana:5/hunter2@mail.example":          "has something after the port",
		"smtp://ana:5#hunter2@mail.example":          "has something after the port",
		"smtp://ana:5?hunter2@mail.example":          "has a parameter other than tls",
		"smtp://mail.example?password=hunter2":       "has a parameter other than tls",
		"smtp://mail.example?tls=none&x=hunter2":     "has a parameter other than tls",
		"smtp://mail.example?tls=none&tls=hunter2":   "has a parameter other than tls",
		"smtp://mail.example?tls=hunter2":            "has a tls other than none",
		"smtps://mail.example?tls=none":              "has tls=none beside smtps://",
		"smtp://ana:hunter2@mail.example:0":          "has a port that is not from 1 to 65535",
		"smtp://ana:hunter2@mail.example:65536":      "has a port that is not from 1 to 65535",
		"smtp://ana:hunter2@mail.example:smtp":       "is not a URL that can be read",
		"smtp://ana:hunter2@mail.example\r\nEHLO: x": "is not a URL that can be read",
	} {
		t.Run(raw, func(t *testing.T) {
			t.Parallel()
			s, err := ParseURL(raw, sampleFrom)
			require.ErrorContains(t, err, "TOKENALERT_SMTP_URL "+want)
			require.ErrorContains(t, err, "allowed is smtp://")
			require.NotContains(t, err.Error(), "hunter2")
			require.Zero(t, s)
		})
	}
	for _, from := range []string{"", "Alerts", "alerts@", "a@example.com, b@example.com", "Alerts <alerts@example.com>\r\nBcc: x@example.com", "a b@example.com"} {
		t.Run("from "+from, func(t *testing.T) {
			t.Parallel()
			_, err := ParseURL("smtp://mail.example", from)
			require.ErrorContains(t, err, "TOKENALERT_EMAIL_FROM")
			require.ErrorContains(t, err, `allowed is alerts@example.com or "Alerts <alerts@example.com>"`)
		})
	}
}

func TestServerShowsNoSecret(t *testing.T) {
	t.Parallel()
	s, err := ParseURL("smtps://ana:hunter2@mail.example", sampleFrom)
	require.NoError(t, err)
	encoded, err := json.Marshal(s)
	require.NoError(t, err)
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%+v %#v %s %q", s, s, s, s), fmt.Sprintf("%v %#v", &s, &s), string(encoded)} {
		assert.Contains(t, text, "mail.example")
		assert.NotContains(t, text, "hunter2")
		assert.NotContains(t, text, "ana")
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	valid := Server{Host: "mail.example", Port: 587, From: sampleFrom}
	require.NoError(t, valid.Validate())
	for want, spoil := range map[string]func(*Server){
		"host is not a name":           func(s *Server) { s.Host = "" },
		"host is not a name or an":     func(s *Server) { s.Host = "mail.example\r\n" },
		"port 0 is not from 1":         func(s *Server) { s.Port = 0 },
		"port 65536 is not from 1":     func(s *Server) { s.Port = 65536 },
		"a password and no user":       func(s *Server) { s.Password = "hunter2" },
		"TLS 3 is none of":             func(s *Server) { s.TLS = 3 },
		"the sender is not an address": func(s *Server) { s.From = "hunter2" },
	} {
		s := valid
		spoil(&s)
		err := s.Validate()
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestStartTLSOr(t *testing.T) {
	t.Parallel()
	assert.Equal(t, StartTLS, StartTLSOr(587, true))
	assert.Equal(t, StartTLS, StartTLSOr(25, true))
	assert.Equal(t, None, StartTLSOr(25, false))
	assert.Equal(t, Implicit, StartTLSOr(465, true))
	assert.Equal(t, Implicit, StartTLSOr(465, false))
}

package email

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/mailserver"
)

func TestSendDelivers(t *testing.T) {
	t.Parallel()
	people := map[string]struct{ language, name, title, organization string }{
		"Spanish":       {"es", "Ana Núñez", "📊 80% de tokens de IA utilizados", "Colegio Ñandú"},
		"English":       {"en", "Bob O'Neil, \"Jr.\" <x>", "⚡ 90% of AI tokens used", "Smith & Sons"},
		"Portuguese":    {"pt", "João Conceição", "⚠️ Limite de tokens de IA atingido", "Educação"},
		"right to left": {"en", "נועה כהן", "⚡ 90% of AI tokens used", "مدرسة"},
		"emoji":         {"es", "👩\u200d💻 Zoë", "👩\u200d💻 " + strings.Repeat("ñandú ", 30), ""},
		"nameless":      {"es", "", "plain", ""},
	}
	for name, person := range people {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, server := startSite(t, mailserver.Conduct{})
			f := someFacts()
			f.Language, f.RecipientName, f.Title, f.OrganizationName = person.language, person.name, person.title, person.organization
			c, _ := Compose(f, nil)
			require.NoError(t, Send(t.Context(), s, c))

			got := server.Next(t)
			assert.Equal(t, "alerts@platform.example", got.From)
			assert.Equal(t, f.To, got.To)
			assert.True(t, got.Secure)
			assert.False(t, got.UTF8)
			m := mailserver.Read(t, got.Raw)
			assert.Equal(t, "<"+f.ID+"@platform.example>", m.Header.Get("Message-Id"))
			assert.Equal(t, "auto-generated", m.Header.Get("Auto-Submitted"))
			assert.Equal(t, person.language, m.Header.Get("Content-Language"))
			assert.Equal(t, strings.TrimSpace(person.title), m.Subject)
			assert.Equal(t, []*mail.Address{{Name: person.name, Address: f.To}}, m.To)
			assert.Equal(t, []*mail.Address{{Name: "Alerts", Address: "alerts@platform.example"}}, m.From)
			date, err := m.Header.Date()
			require.NoError(t, err)
			assert.WithinDuration(t, time.Now(), date, time.Hour)
			assert.Equal(t, []string{"text/plain", "text/html"}, m.Types)
			assert.Equal(t, []string{c.Text, c.HTML}, m.Parts)
			for _, absent := range []string{"Bcc", "Cc", "Reply-To", "X-Mailer", "User-Agent"} {
				assert.Empty(t, m.Header.Get(absent), absent)
			}
			for octets := range strings.SplitSeq(got.Raw, "\r\n") {
				assert.LessOrEqual(t, len(octets), 998)
				assert.True(t, ascii(octets), octets)
			}
		})
	}
}

func TestSendKeepsTheConnectionPrivate(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		conduct mailserver.Conduct
		client  func(*Server)
		want    string // of the error; empty: delivered
		secure  bool
	}{
		"STARTTLS":                 {secure: true},
		"implicit":                 {conduct: mailserver.Conduct{TLS: mailserver.Implicit}, secure: true},
		"none, asked for":          {conduct: mailserver.Conduct{TLS: mailserver.None}},
		"STARTTLS not offered":     {conduct: mailserver.Conduct{TLS: mailserver.None}, client: func(s *Server) { s.TLS = StartTLS }, want: "smtp: TLS: the server offers no STARTTLS, which is required; nothing was sent"},
		"another's name":           {conduct: mailserver.Conduct{CertName: "other.example"}, want: "smtp: TLS: tls: failed to verify certificate: x509: cannot validate certificate for 127.0.0.1"},
		"another's name, implicit": {conduct: mailserver.Conduct{TLS: mailserver.Implicit, CertName: "other.example"}, want: "smtp: TLS: tls: failed to verify certificate: x509: cannot validate certificate for 127.0.0.1"},
		"unknown authority":        {client: func(s *Server) { s.RootCAs = x509.NewCertPool() }, want: "smtp: TLS: tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		"TLS where none is spoken": {conduct: mailserver.Conduct{TLS: mailserver.None}, client: func(s *Server) { s.TLS = Implicit }, want: "smtp: TLS: tls: first record does not look like a TLS handshake"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.conduct.Mechanisms = []string{"PLAIN"}
			s, m := startSite(t, test.conduct)
			if test.client != nil {
				test.client(&s)
			}
			s.Username, s.Password = rightUser, rightPassword
			c, _ := Compose(someFacts(), nil)
			err := Send(t.Context(), s, c)
			if test.want != "" {
				require.ErrorContains(t, err, test.want)
				require.False(t, Permanent(err))
				require.Empty(t, m.Messages())
				return
			}
			require.NoError(t, err)
			got := m.Next(t)
			require.Equal(t, test.secure, got.Secure)
			require.Equal(t, rightUser, got.User)
		})
	}
}

// A server that offers no STARTTLS hears nothing but the greeting.
func TestSendTellsAPlainServerNothing(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 10)
	s := script(t, func(l *line) {
		l.say("220 mail.example")
		l.hear()
		l.say("250-mail.example\r\n250 AUTH PLAIN LOGIN")
		for command := l.hear(); command != ""; command = l.hear() {
			heard <- command
		}
		close(heard)
	})
	s.TLS, s.Username, s.Password = StartTLS, rightUser, rightPassword
	c, _ := Compose(someFacts(), nil)
	require.ErrorContains(t, Send(t.Context(), s, c), "no STARTTLS")
	for command := range heard {
		t.Errorf("it heard %q", command)
	}
}

func TestSendLogsIn(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		mechanisms     []string
		user, password string
		want           string
	}{
		"PLAIN":               {[]string{"PLAIN"}, rightUser, rightPassword, ""},
		"LOGIN":               {[]string{"LOGIN"}, rightUser, rightPassword, ""},
		"both":                {[]string{"XOAUTH2", "LOGIN", "PLAIN"}, rightUser, rightPassword, ""},
		"no login":            {nil, "", "", ""},
		"PLAIN, wrong":        {[]string{"PLAIN"}, rightUser, "guess-of-ours", "smtp: AUTH: 535 5.7.8"},
		"LOGIN, wrong":        {[]string{"LOGIN"}, "somebody@platform.example", rightPassword, "smtp: AUTH: 535 5.7.8"},
		"none that we speak":  {[]string{"XOAUTH2"}, rightUser, rightPassword, "smtp: AUTH: the server offers none of PLAIN, LOGIN, CRAM-MD5 and SCRAM-SHA-256"},
		"none that it speaks": {nil, rightUser, rightPassword, "smtp: AUTH: the server offers none of"},
	}
	for name, test := range tests {
		for _, mode := range []mailserver.TLS{mailserver.StartTLS, mailserver.Implicit, mailserver.None} {
			t.Run(name+" "+[]string{"STARTTLS", "implicit", "none"}[mode], func(t *testing.T) {
				t.Parallel()
				s, m := startSite(t, mailserver.Conduct{TLS: mode, Mechanisms: test.mechanisms})
				s.Username, s.Password = test.user, test.password
				c, _ := Compose(someFacts(), nil)
				err := Send(t.Context(), s, c)
				if test.want == "" {
					require.NoError(t, err)
					require.Equal(t, test.user, m.Next(t).User)
					return
				}
				require.ErrorContains(t, err, test.want)
				for _, secret := range []string{test.user, test.password, "platform.example"} {
					require.NotContains(t, err.Error(), secret)
				}
				require.False(t, Permanent(err), "an account can be mended within the day")
				require.Empty(t, m.Messages())
			})
		}
	}
}

func TestSendIsRefused(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		conduct   mailserver.Conduct
		want      string
		permanent bool
	}{
		"mailbox unknown": {
			mailserver.Conduct{Rcpt: mailserver.Refuse(550, [3]int{5, 1, 1}, "no such user")},
			"smtp: RCPT: 550 5.1.1 no such user", true,
		},
		"an answer that repeats the address": {
			mailserver.Conduct{Rcpt: func(to string) error {
				return mailserver.Refusal(550, [3]int{5, 1, 1}, "<"+strings.ToUpper(to)+"> unknown")
			}},
			"smtp: RCPT: 550 5.1.1", true,
		},
		"an answer that has another's address": {
			mailserver.Conduct{Rcpt: func(string) error {
				return mailserver.Refusal(550, [3]int{5, 1, 6}, "moved to <zoe.secret@other.example>\n(or so)")
			}},
			"smtp: RCPT: 550 5.1.6 moved to <<address>> (or so)", true,
		},
		"greylisted": {
			mailserver.Conduct{Rcpt: mailserver.Refuse(451, [3]int{4, 7, 1}, "greylisted, try again")},
			"smtp: RCPT: 451 4.7.1 greylisted, try again", false,
		},
		"no relay": {
			mailserver.Conduct{Rcpt: mailserver.Refuse(554, [3]int{5, 7, 1}, "relay access denied")},
			"smtp: RCPT: 554 5.7.1 relay access denied", false,
		},
		"our sender": {
			mailserver.Conduct{Mail: mailserver.Refuse(553, [3]int{5, 7, 1}, "not your address")},
			"smtp: MAIL: 553 5.7.1 not your address", false,
		},
		"the content": {
			mailserver.Conduct{Data: func() error { return mailserver.Refusal(554, [3]int{5, 7, 1}, "spam") }},
			"smtp: the end of DATA: 554 5.7.1 spam", true,
		},
		"the content, for now": {
			mailserver.Conduct{Data: func() error { return mailserver.Refusal(452, [3]int{4, 3, 1}, "disk full") }},
			"smtp: the end of DATA: 452 4.3.1 disk full", false,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, m := startSite(t, test.conduct)
			c, _ := Compose(someFacts(), nil)
			err := Send(t.Context(), s, c)
			require.EqualError(t, err, test.want)
			require.Equal(t, test.permanent, Permanent(err))
			require.Empty(t, m.Messages())
		})
	}
}

func TestSendIsAcceptedAfterGreylisting(t *testing.T) {
	t.Parallel()
	s, m := startSite(t, mailserver.Conduct{Rcpt: mailserver.Greylist(1)})
	c, _ := Compose(someFacts(), nil)
	err := Send(t.Context(), s, c)
	require.EqualError(t, err, "smtp: RCPT: 451 4.7.1 greylisted, try again")
	require.False(t, Permanent(err))
	require.NoError(t, Send(t.Context(), s, c))
	require.Contains(t, m.Next(t).Raw, c.ID)
	require.Len(t, m.Messages(), 1)
}

func TestSendToAddresses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		to   string
		utf8 bool   // whether the server takes such
		want string // of the error; empty: delivered
	}{
		"ordinary":             {"ana@example.org", true, ""},
		"quoted":               {`"ana maria"@example.org`, false, ""},
		"UTF-8":                {"añá@example.org", true, ""},
		"UTF-8, not taken":     {"añá@example.org", false, "smtp: RCPT: the recipient's address is not ASCII, and the server offers no SMTPUTF8"},
		"none":                 {"", true, "smtp: the message: is not an e-mail address"},
		"no domain":            {"ana", true, "smtp: the message: is not an e-mail address"},
		"two":                  {"ana@example.org, bob@example.org", true, "smtp: the message: is not an e-mail address"},
		"one that adds a line": {"ana@example.org\r\nRCPT TO:<bob@example.org>", true, "smtp: the message: is not an e-mail address"},
		"one that is folded":   {"\"ana\r\n \"@example.org", true, "smtp: the message: is not an e-mail address"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, m := startSite(t, mailserver.Conduct{UTF8: test.utf8})
			f := someFacts()
			f.To = test.to
			c, _ := Compose(f, nil)
			err := Send(t.Context(), s, c)
			if test.want != "" {
				require.EqualError(t, err, test.want)
				require.True(t, Permanent(err))
				require.Empty(t, m.Messages())
				return
			}
			require.NoError(t, err)
			got := m.Next(t)
			require.Equal(t, strings.ReplaceAll(test.to, `"`, ""), strings.ReplaceAll(got.To, `"`, ""))
			require.Equal(t, !ascii(test.to), got.UTF8, "SMTPUTF8 is asked for where it is needed, and only there")
		})
	}
}

// A server that breaks off leaves an error that is worth another try.
func TestSendIsCutOff(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		play func(*line)
		want string
	}{
		"before the greeting":            {func(*line) {}, "smtp: the greeting: "},
		"a greeting of refusal":          {func(l *line) { l.say("554 5.7.1 go away") }, "smtp: the greeting: 554 5.7.1 go away"},
		"busy":                           {func(l *line) { l.say("421 4.3.2 busy") }, "smtp: the greeting: 421 4.3.2 busy"},
		"no server of mail":              {func(l *line) { l.say("HTTP/1.1 400 Bad Request") }, "smtp: the greeting: "},
		"a greeting of one endless line": {func(l *line) { l.endlessly("220 ", "x") }, "smtp: the greeting: the server says more"},
		"an endless greeting":            {func(l *line) { l.endlessly("", "220-hello\r\n") }, "smtp: the greeting: the server says more"},
		"at MAIL":                        {func(l *line) { l.until("MAIL") }, "smtp: MAIL: "},
		"at RCPT":                        {func(l *line) { l.until("RCPT") }, "smtp: RCPT: "},
		"at DATA":                        {func(l *line) { l.until("DATA") }, "smtp: DATA: "},
		"in the message": {func(l *line) {
			l.until("DATA")
			l.say("354 go on")
			l.hear()
		}, "DATA: "},
		"after the final dot": {func(l *line) {
			l.until("DATA")
			l.say("354 go on")
			l.message()
		}, "smtp: the end of DATA: EOF"},
		"after the final dot, with a reset": {func(l *line) {
			l.until("DATA")
			l.say("354 go on")
			l.message()
			_ = l.Conn.(*net.TCPConn).SetLinger(0)
		}, "smtp: the end of DATA: read: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := Compose(someFacts(), nil)
			err := Send(t.Context(), script(t, test.play), c)
			require.ErrorContains(t, err, test.want)
			require.False(t, Permanent(err))
			require.NotContains(t, err.Error(), "127.0.0.1")
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		c, _ := Compose(someFacts(), nil)
		err = Send(t.Context(), Server{Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, From: sampleFrom}, c)
		require.EqualError(t, err, "smtp: connecting: dial: connect: connection refused")
		require.False(t, Permanent(err))
	})
}

// What the server has taken is delivered, however it behaves afterwards, and
// what is sent again is the same message.
func TestSendTwiceIsOneMessage(t *testing.T) {
	t.Parallel()
	ids := make(chan string, 2)
	answers := []string{"", "250 2.0.0 taken"} // the first time it hangs up instead
	s := script(t, func(l *line) {
		l.until("DATA")
		l.say("354 go on")
		m, err := mail.ReadMessage(strings.NewReader(l.message()))
		if err == nil {
			ids <- m.Header.Get("Message-Id")
		}
		if answers[0] != "" {
			l.say(answers[0])
		}
		answers = answers[1:]
	})
	c, _ := Compose(someFacts(), nil)
	require.Error(t, Send(t.Context(), s, c))
	require.NoError(t, Send(t.Context(), s, c), "it hung up at QUIT, when all was done")
	first, second := <-ids, <-ids
	require.Equal(t, "<"+c.ID+"@platform.example>", first)
	require.Equal(t, first, second)
}

// Send ends with its context wherever the server falls silent.
func TestSendEndsWithItsContext(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		hold func(*line) // up to where it falls silent
		mode TLS
		want string
	}{
		"at EHLO":          {func(l *line) { l.say("220 mail.example"); l.hear() }, None, "smtp: the greeting: no answer in time"},
		"in the handshake": {func(l *line) { _, _ = l.in.Peek(1) }, Implicit, "smtp: TLS: no answer in time"},
		"at MAIL":          {func(l *line) { l.until("MAIL") }, None, "smtp: MAIL: no answer in time"},
		"after the final dot": {func(l *line) {
			l.until("DATA")
			l.say("354 go on")
			l.message()
		}, None, "smtp: the end of DATA: no answer in time"},
	}
	for name, test := range tests {
		for how, want := range map[string]error{"deadline": context.DeadlineExceeded, "cancelled": context.Canceled} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancel(t.Context())
				silent := make(chan struct{})
				s := script(t, func(l *line) {
					test.hold(l)
					close(silent)
					_, _ = io.Copy(io.Discard, l.in) // until the client goes
				})
				s.TLS = test.mode
				if how == "deadline" {
					cancel()
					ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
				} else {
					go func() {
						<-silent
						cancel()
					}()
				}
				defer cancel()
				c, _ := Compose(someFacts(), nil)
				err := Send(ctx, s, c)
				require.EqualError(t, err, test.want)
				require.ErrorIs(t, err, want)
				require.False(t, Permanent(err))
			})
		}
	}
}

// Whatever the texts hold, one message with our headers goes over the wire: no
// CR or LF but in a CRLF, and no lone dot but the last.
func TestSendInjectsNothing(t *testing.T) {
	t.Parallel()
	evil := []string{
		"x\r\nBcc: bob@example.org", "x\nBcc: bob@example.org", "x\rBcc: bob@example.org", "x\r\n\r\n<b>", "x\u2028Bcc: bob@example.org", "x\x00y",
		"\r\n.\r\nMAIL FROM:<x@example.org>\r\n", "\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", ".", "..", "\r\n\x00.\r\n",
		`" <bob@example.org>, "`, "=?utf-8?q?=0D=0ABcc:_bob@example.org?=", "--boundary\r\n", strings.Repeat("a", 2000), strings.Repeat("\r\n.\r\n", 100),
	}
	for _, text := range evil {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			raw := make(chan string, 2)
			s := script(t, func(l *line) {
				l.until("DATA")
				l.say("354 go on")
				raw <- l.message()
				l.say("250 2.0.0 taken")
				raw <- l.hear()
			})
			f := someFacts()
			f.RecipientName, f.OrganizationName, f.Title, f.Body, f.Link = text, text, text, text, "https://x/"+text
			for _, own := range []*Template{nil, {Subject: text + "{{title}}{{recipient_name}}", Body: "{{message}}" + text, HTML: true}, {Body: text + "{{message}}"}} {
				c, _ := Compose(f, own)
				c.Subject += text // not only Compose makes a Content
				c.ToName += text
				c.Text += text
				require.NoError(t, Send(t.Context(), s, c))
				sent := <-raw
				require.Equal(t, "QUIT", <-raw, "what follows the message")
				require.Equal(t, 1, strings.Count(sent, "\r\n.\r\n"))
				bare := strings.ReplaceAll(sent, "\r\n", "")
				require.False(t, strings.ContainsAny(bare, "\r\n\x00"), "%q", sent)
				m, err := mail.ReadMessage(strings.NewReader(sent))
				require.NoError(t, err)
				var names []string
				for name, values := range m.Header {
					names = append(names, name)
					require.Len(t, values, 1, name)
				}
				require.Subset(t, []string{"Auto-Submitted", "Content-Language", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "Message-Id", "Mime-Version", "Subject", "To", "X-Auto-Response-Suppress"}, names)
				to, err := m.Header.AddressList("To")
				require.NoError(t, err)
				require.Len(t, to, 1)
				require.Equal(t, f.To, to[0].Address)
				for octets := range strings.SplitSeq(sent, "\r\n") {
					require.LessOrEqual(t, len(octets), 998)
				}
			}
		})
	}
}

// Content that Compose did not make is held to the same.
func TestSendMakesHeadersFit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a\r\nb":                  "a b",
		"é\r\nBcc: x@example.org": "é Bcc: x@example.org",
		strings.Repeat("a", 2000): strings.Repeat("a", maxName-1) + "…",
		strings.Repeat("é", 2000): strings.Repeat("é", maxName-1) + "…",
	} {
		s, server := startSite(t, mailserver.Conduct{})
		s.From = (&mail.Address{Name: in, Address: "alerts@platform.example"}).String()
		require.NoError(t, Send(t.Context(), s, Content{ID: "1", To: "ana@example.org", ToName: in, Subject: in, Text: "x", HTML: "<p>x"}))
		m := mailserver.Read(t, server.Next(t).Raw)
		require.Equal(t, want, m.To[0].Name)
		require.Equal(t, want, m.From[0].Name)
		require.Equal(t, oneLine(in, maxSubject), m.Subject)
	}
}

func TestSendRefusesAnIDThatIsNone(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "a b", "a@b", "a>\r\nBcc: x@example.org", "a\n", ".a", "é"} {
		c, _ := Compose(someFacts(), nil)
		c.ID = id
		err := Send(t.Context(), Server{Host: "127.0.0.1", Port: 1, From: sampleFrom}, c)
		require.EqualError(t, err, "smtp: the message: the alert's id is not letters, digits, dots and hyphens")
		require.True(t, Permanent(err))
	}
	err := Send(t.Context(), Server{Host: "127.0.0.1", Port: 1, From: "nobody"}, Content{})
	require.ErrorContains(t, err, "smtp: the settings: the sender is not an address")
	require.False(t, Permanent(err))
}

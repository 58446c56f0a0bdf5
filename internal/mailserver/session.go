package mailserver

import (
	"errors"
	"io"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// session is one connection.
type session struct {
	*Server
	conn *smtp.Conn
	got  Message
}

func (s *session) Reset()        { s.got = Message{User: s.got.User} }
func (s *session) Logout() error { return nil }

// AuthMechanisms are those that are offered, known to this server or not.
func (s *session) AuthMechanisms() []string { return s.conduct.Mechanisms }

// Auth takes PLAIN and LOGIN. Its refusal repeats what it was told, as some
// servers do.
func (s *session) Auth(mechanism string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != s.conduct.User || password != s.conduct.Password {
			return Refusal(535, [3]int{5, 7, 8}, "no such account: "+user+" "+password)
		}
		s.got.User = user
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

// Next is the next step.
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
	s.got.From, s.got.UTF8 = from, options.UTF8
	_, s.got.Secure = s.conn.TLSConnectionState()
	if s.conduct.Mail == nil {
		return nil
	}
	return s.answer(s.conduct.Mail(from))
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.got.To = to
	if s.conduct.Rcpt == nil {
		return nil
	}
	return s.answer(s.conduct.Rcpt(to))
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.conduct.Data != nil {
		if err := s.answer(s.conduct.Data()); err != nil {
			return err
		}
	}
	s.got.Raw = string(raw)
	s.take(s.got)
	return nil
}

// answer does what an answer stands for that is none.
func (s *session) answer(err error) error {
	switch {
	case errors.Is(err, ErrHang):
		<-s.ended
	case errors.Is(err, ErrHangUp):
		_ = s.conn.Conn().Close()
	}
	return err
}

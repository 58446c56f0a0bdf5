package line

// Renew does what Heal does where the proxy does not answer.
func (l *Line) Renew() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.renew()
}

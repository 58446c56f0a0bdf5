package delivery

import "time"

// Hurry has d try again after milliseconds and look for work as often.
func (d *Deliverer) Hurry() { d.pace = pace{10 * time.Millisecond, 20 * time.Millisecond} }

// PauseAfter is pauseAfter of the product's own first pause.
func PauseAfter(id int64, attempt int) time.Duration { return pauseAfter(firstPause, id, attempt) }

// PerServer is how many e-mails a server gets at a time.
const PerServer = perServer

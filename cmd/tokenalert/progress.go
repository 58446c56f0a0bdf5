package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"tokenalert/store"
)

// progressBar is one line of a terminal: percentage, bar, rows a second and
// what remains. It leaves nothing behind.
type progressBar struct {
	container *mpb.Progress
	bar       *mpb.Bar
	rows      atomic.Int64
	began     time.Time
}

// progressSteps is the bar's length: tenths of a percent.
const progressSteps = 1000

func newProgressBar(w io.Writer, doing string) *progressBar {
	b := &progressBar{container: mpb.New(mpb.WithOutput(w)), began: time.Now()}
	b.bar = b.container.New(progressSteps, mpb.BarStyle(), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(doing+" "), decor.NewPercentage("%d")),
		mpb.AppendDecorators(decor.Any(b.speed), decor.AverageETA(decor.ET_STYLE_GO), decor.Name(" left")))
	return b
}

func (b *progressBar) speed(decor.Statistics) string {
	rows := b.rows.Load()
	return fmt.Sprintf("%d rows, %.0f rows/s, ", rows, float64(rows)/max(time.Since(b.began).Seconds(), 0.001))
}

func (b *progressBar) progress(p store.Progress) {
	b.rows.Store(p.Rows)
	b.bar.SetCurrent(int64(p.Percent * progressSteps / 100))
}

// say writes a line above the bar.
func (b *progressBar) say(sentence string) {
	_, _ = fmt.Fprintln(b.container, sentence) // fails only after end
}

// end removes the bar, whether it is full or not.
func (b *progressBar) end() {
	b.bar.Abort(true)
	b.container.Wait()
}

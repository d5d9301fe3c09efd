package existing

import "time"

// SetClock has b take the time from now.
func (b *Backend) SetClock(now func() time.Time) { b.now = now }

package backend

import (
	"hash/fnv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Verified remembers, for this process, what was found as wanted on a server,
// so that a pass before the drift interval has passed runs no SQL. Losing it
// costs a look, never safety. The zero value is ready.
type Verified struct {
	mu   sync.Mutex
	seen map[types.UID]seal
}

type seal struct {
	wanted uint64
	until  time.Time
}

// Left is how long what uid wants stays verified; 0 asks for a look.
func (v *Verified) Left(uid types.UID, wanted uint64, now time.Time) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	s, ok := v.seen[uid]
	if !ok || s.wanted != wanted {
		return 0
	}
	return max(0, s.until.Sub(now))
}

// Keep says that uid has what it wants, for interval less up to a tenth of it,
// so that objects verified together part ways. It returns that time.
func (v *Verified) Keep(uid types.UID, wanted uint64, now time.Time, interval time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(uid))
	left := interval - time.Duration(float64(interval/10)*float64(h.Sum32())/(1<<32))
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen == nil {
		v.seen = map[types.UID]seal{}
	}
	v.seen[uid] = seal{wanted, now.Add(left)}
	return left
}

// Forget drops what is known of uid.
func (v *Verified) Forget(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.seen, uid)
}

package canopy

import "time"

// Certificates makes those of a device at each of these times.
func Certificates(key []byte, times ...time.Time) (serials []string, err error) {
	var now time.Time
	d, err := newDevice(key, func() time.Time { return now })
	for _, now = range times {
		if err != nil {
			return nil, err
		}
		c, err := d.certificate()
		if err != nil {
			return nil, err
		}
		serials = append(serials, string(c.Certificate[0]))
	}
	return serials, err
}

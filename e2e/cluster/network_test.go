package cluster

import "testing"

func TestOverlaps(t *testing.T) {
	t.Parallel()
	const header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for name, tc := range map[string]struct {
		route string // destination and mask, as the kernel writes them
		want  bool
	}{
		"the default route is everybody's":        {route: "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"},
		"another network is no neighbour":         {route: "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"},
		"the next number is free":                 {route: "eth0\t00008F0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"},
		"a part of it is in use":                  {route: "eth0\t00108E0A\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n", want: true},
		"it lies within a network that is in use": {route: "eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n", want: true},
		"a single address of it is somebody's":    {route: "eth0\t01018E0A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n", want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := Network(142).overlaps(header + tc.route); err != nil || got != tc.want {
				t.Errorf("overlaps = %v, %v", got, err)
			}
		})
	}
}

func TestClaimIsExclusive(t *testing.T) {
	t.Parallel()
	const n = Network(9999) // no address has it
	first, err := n.claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.claim(); err == nil {
		t.Error("it was claimed twice")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := n.claim()
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

package worker

// Nearest is the one of the known names that was probably meant: with the fewest
// letters to change, where these are a third of the longer name or less, else
// "". What is further off was no slip of the hand, and a guess would mislead.
func Nearest(given string, known []string) string {
	nearest, fewest := "", 0
	for _, name := range known {
		d := distance(given, name)
		if 3*d <= max(len(given), len(name)) && (nearest == "" || d < fewest) {
			nearest, fewest = name, d
		}
	}
	return nearest
}

// distance is Damerau–Levenshtein's, where a pair once swapped is not touched
// again: how many bytes to insert, delete, replace or swap with the next.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

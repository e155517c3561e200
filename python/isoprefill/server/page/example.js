// @ts-check
/** What the form holds when the page opens: with it the default model ranks otherwise if items see each other. */

export const EXAMPLE = {
  query: "Review:",
  items: [
    "I loved this film. It was",
    "The plot was thin and I fell asleep. It was",
    "A masterpiece from start to finish. It was",
    "I hated this film. It was",
    "Two hours I will never get back. It was",
    "My children want to see it again. It was",
  ],
  labels: "great, terrible",
};

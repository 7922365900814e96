// Which action a player means by the keys and buttons that are held: of the exported page, and of the one of `play`.

// By their place on the keyboard. A key is the first of its buttons that the game has.
const KEYS = {
  ArrowRight: ["RIGHT"],
  ArrowLeft: ["LEFT"],
  ArrowUp: ["UP"],
  ArrowDown: ["DOWN"],
  KeyD: ["RIGHT"],
  KeyA: ["LEFT"],
  KeyW: ["UP"],
  KeyS: ["DOWN"],
  Space: ["ACTION_JUMP", "ACTION_PRIMARY"],
  KeyX: ["ACTION_SECONDARY"],
};
const HELP = {
  RIGHT: "→ or D",
  LEFT: "← or A",
  UP: "↑ or W",
  DOWN: "↓ or S",
  ACTION_JUMP: "space: jump",
  ACTION_PRIMARY: "space: first button",
  ACTION_SECONDARY: "X: second button",
};
const SIGNS = { RIGHT: "→", LEFT: "←", UP: "↑", DOWN: "↓", ACTION_JUMP: "jump" };
// Of buttons from left to right: directions for one thumb, the rest for the other.
const ORDER = ["LEFT", "UP", "DOWN", "RIGHT"];
const TYPED = "input:not([type=checkbox], [type=file], [type=range])";

const parts = (name) => name.split("+");

// The names of all buttons that the actions know.
export function buttonsOf(actions) {
  return [...new Set(actions.flatMap(parts))].filter((part) => part !== "NOOP");
}

export function labelOf(name) {
  return buttonsOf([name])
    .map((part) => SIGNS[part] ?? part.replace("ACTION_", "").toLowerCase())
    .join(" ");
}

// The place of a button among others.
export function placeOf(name) {
  return ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length;
}

// The button of a key event's code; digits choose an action by its number, from 1.
export function buttonOf(code, actions) {
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(code);
  if (digit) return actions[digit[1] - 1] ?? null;
  const buttons = buttonsOf(actions);
  return KEYS[code]?.find((button) => buttons.includes(button)) ?? null;
}

// What a person has to press.
export function helpOf(actions) {
  const buttons = new Set(Object.keys(KEYS).map((code) => buttonOf(code, actions)));
  const words = [...buttons].map((button) => HELP[button]).filter(Boolean);
  return `Hold a button, or a key: ${[...words, "1 to 9: an action by its number"].join(", ")}.`;
}

// Index of the action with the most of the held buttons, the latest ones first; null if no action has any of them.
export function chooseAction(held, actions) {
  const pressed = held.flatMap(parts);
  let best = null;
  let bestScore = 0;
  for (const [index, name] of actions.entries()) {
    const places = parts(name).map((part) => pressed.lastIndexOf(part));
    if (Math.min(...places) < 0) continue;
    const score = places.length * 1000 + Math.max(...places) + 1;
    if (score > bestScore) [best, bestScore] = [index, score];
  }
  return best;
}

// What holds which button: keys by their codes, and the buttons on the screen. Two may hold the same one.
export class Held {
  #buttons = new Map();

  press(by, button) {
    // A key that repeats is no new one.
    if (!this.#buttons.has(by)) this.#buttons.set(by, button);
  }

  release(by) {
    this.#buttons.delete(by);
  }

  clear() {
    this.#buttons.clear();
  }

  // The latest last.
  get names() {
    return [...this.#buttons.values()];
  }
}

// From now on the page's keys hold buttons. actions(): of now. commands: what keys do when they go down, by code.
// changed(): called after each. isPlaying(): whether keys count.
export function listen(held, { actions, commands, changed, isPlaying }) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isForControl(event) || !isPlaying()) return;
    const own = buttonOf(event.code, actions());
    const button = own ?? focusedButton(event);
    if (button !== null) held.press(event.code, button);
    else if (commands[event.code]) commands[event.code](event);
    else return;
    event.preventDefault();
    // A button that was clicked would be clicked again by the space bar.
    if (button === own && document.activeElement instanceof HTMLButtonElement) document.activeElement.blur();
    changed();
  });
  // Wherever the focus is by now, and whatever else is held.
  addEventListener("keyup", (event) => {
    held.release(event.code);
    // A Mac says nothing of other keys that come up while this one is held.
    if (event.key === "Meta") held.clear();
    changed();
  });
  addEventListener("blur", () => {
    held.clear();
    changed();
  });
  // A control that was used gives the keys back to the game.
  addEventListener("change", ({ target }) => {
    if (!target.matches(TYPED)) target.blur();
  });
}

// What is typed, and the space bar where Tab has led to a box.
function isForControl({ target, code }) {
  return target.matches?.(TYPED) || (code === "Space" && target.matches?.("[type=checkbox]"));
}

// The button on the screen that Tab has led to.
function focusedButton({ target, code }) {
  const isPress = ["Enter", "NumpadEnter", "Space"].includes(code);
  return (isPress && target.closest?.("[data-button]")?.dataset.button) || null;
}

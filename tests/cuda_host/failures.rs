//! A card that has too little memory, a compiler that finds mistakes, a card that is lost: each is one sentence, and nothing wrong is printed or
//! kept.
